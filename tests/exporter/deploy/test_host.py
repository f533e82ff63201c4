"""Names of hosts: what is one, and what would be an option, a command or several words."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused

from quamba_export.exporter.deploy.host import SshOptions, checked_hosts
from quamba_export.exporter.deploy.ssh import BOOTSTRAP, LOADER, MODULES, agent_program
from quamba_export.exporter.deploy.ssh_errors import connection_error, copy_error, printable
from quamba_export.runtime.errors import ExitCode


@pytest.mark.parametrize(
    "host",
    [
        "jetson",
        "user@jetson.local",
        "nvidia@10.0.0.7",
        "me@::1",
        "me@fe80::1%eth0",
        "_svc.a-b@h-1.example.org",
    ],
)
def test_hosts(host: str) -> None:
    assert checked_hosts([host], "deploy") == [host]


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand=touch x",
        "-l root",
        "user@-oProxyCommand=x",
        "user@host name",
        "user@host\nother",
        "user@host;reboot",
        "user@$(reboot)",
        "user@`reboot`",
        "user@host'",
        "a@b@c",
        "user@",
        "@host",
        "",
        "ssh://user@host",
        "user@host/..",
        "host\0",
        "höst",
        "user@host|cat",
        "%h",
        "x" * 300,
    ],
)
def test_what_is_no_host_is_refused(host: str) -> None:
    with refused("no host to deploy to", code=ExitCode.USAGE):
        checked_hosts(["good", host], "deploy")


def test_hosts_are_there_and_each_once() -> None:
    with refused("no host is named", "quamba-export deploy --status user@host", code=ExitCode.USAGE):
        checked_hosts([], "deploy --status user@host")
    with refused("wrong number of hosts", "2, 1 of them different", code=ExitCode.USAGE):
        checked_hosts(["a", "a"], "deploy")


def test_host_keys_are_always_checked_and_nothing_is_asked() -> None:
    words = SshOptions(port=22, identity=Path("key"), config=Path("config")).words()
    assert {"StrictHostKeyChecking=yes", "BatchMode=yes", "PermitLocalCommand=no"} <= set(words)
    assert words[-8:] == ["-F", "config", "-p", "22", "-i", "key", "-o", "IdentitiesOnly=yes"]
    with refused("--identity: no such file", "nowhere"):
        SshOptions(identity=Path("nowhere")).check()


def test_the_program_for_the_device_needs_the_standard_library_only() -> None:
    assert all(module in agent_program().decode() for module in MODULES)
    assert BOOTSTRAP.count("'") == 2
    assert "{" not in LOADER.format(sources=[], main="x")


def test_what_a_device_prints_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\n c\u202e") == "a?[2Jb c?"
    error = connection_error("jetson", "\x1b]0;evil\x07")
    assert "\x1b" not in str(error)


@pytest.mark.parametrize(
    ("status", "said", "code"),
    [
        (255, "", ExitCode.INCOMPLETE),
        (12, "connection unexpectedly closed", ExitCode.INCOMPLETE),
        (-9, "", ExitCode.INCOMPLETE),
        (11, "write failed: No space left on device (28)", ExitCode.OUT_OF_SPACE),
        (23, "Permission denied (13)", ExitCode.REMOTE),
    ],
)
def test_exit_codes_of_a_copy(status: int, said: str, code: ExitCode) -> None:
    assert copy_error("jetson", status, said).code is code


def test_a_device_without_python_is_told_so() -> None:
    assert "has no python3" in str(connection_error("jetson", "bash: line 1: python3: command not found"))
