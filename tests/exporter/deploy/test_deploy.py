"""`deploy` against a real SSH server: what it leaves on the device, and what it says where it cannot."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deploying import deployed, options, plan, releases, wait_until_free
from refusals import refused
from ssh_device import SshDevice

from quamba_export.exporter import cli
from quamba_export.exporter.deploy import actions, preflight
from quamba_export.exporter.deploy.actions import (
    deploy_to,
    roll_back,
    status_of,
)
from quamba_export.exporter.deploy.host import SshOptions
from quamba_export.exporter.deploy.ssh import Session
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import read_manifest
from quamba_export.targets.target import load_target

Bundles = tuple[Path, Path, Path]
pytestmark = pytest.mark.xdist_group("device")


def generated(device: SshDevice) -> str:
    """What the current release says to a prompt, by its own launcher."""
    current = device.store / "current"
    command = [current / "bin/quamba-export", "run", current / "bundle", "--prompt", "the a", "--json"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return str(json.loads(done.stdout))


def run_json(*words: object, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["quamba-export", "deploy", *map(str, words), "--json"])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    printed = capsys.readouterr()
    assert (leaving.value.code or 0) == code, printed.err
    return dict(json.loads(printed.out))


def test_a_bundle_runs_on_the_device_and_goes_back(device: SshDevice, bundles: Bundles) -> None:
    first = deployed(device, bundles[0])
    assert (first.state, first.before, first.same_bits, first.service) == ("deployed", None, True, None)
    assert device.current == first.current
    assert "token_ids" in generated(device)
    again = deployed(device, bundles[0])
    assert (again.state, again.current, again.same_bits) == ("unchanged", first.current, None)

    second = deployed(device, bundles[1])
    assert (second.state, second.before) == ("deployed", first.current)
    assert releases(device) == {first.current, second.current}

    with Session("known", options(device)) as session:
        status = status_of(session, lambda step: None)
    assert (status.current, status.incoming) == (second.current, ())
    assert [record["id"] for record in status.releases] == [first.current, second.current]
    assert status.releases[0]["target"] == "cpu"

    with Session("known", options(device)) as session:
        back = roll_back(session, lambda step: None)
    assert (back.current, back.before, device.current) == (first.current, second.current, first.current)
    with Session("known", options(device)) as session, refused("no earlier release"):
        roll_back(session, lambda step: None)
    assert deployed(device, bundles[1]).before == first.current  # whole on the device: nothing is copied


def test_a_bundle_that_gives_other_tokens_is_not_switched_to(running: SshDevice, bundles: Bundles) -> None:
    device, before = running, running.current
    with refused("computes something else", "tokens 1, 2", code=ExitCode.NUMERIC):
        deployed(device, bundles[2])
    assert device.current == before
    assert releases(device) == {before}


def test_the_second_deployer_is_told_who_is_first(running: SshDevice, bundles: Bundles) -> None:
    device = running
    with Session("known", options(device)) as first:
        owner = actions.take_lock(first)
        with refused("somebody else is deploying", owner, code=ExitCode.REMOTE):
            deployed(device, bundles[0])
    wait_until_free(device)
    assert deployed(device, bundles[0]).state == "unchanged"


@pytest.mark.parametrize(
    ("host", "key", "message"),
    [
        ("changed", None, "is not the one that this machine knows"),
        ("unknown", None, "is not known to this machine"),
        ("known", "other_key", "does not let this user in"),
        ("refused", None, "has no SSH server on that port"),
        ("nowhere.invalid", None, "has no address"),
    ],
)
def test_why_there_is_no_session_is_told(server: SshDevice, host: str, key: str | None, message: str) -> None:
    text = server.config.read_text()
    config = server.folder / "config"
    if key:
        text = text.replace("client_key", key)
    config.write_text(text + server.entry("refused", 1, "known"))
    with refused(f"{host}", message, "fix: ", code=ExitCode.REMOTE), Session(host, SshOptions(config=config)):
        pass


def test_too_little_memory_or_disk_is_said_before_any_copy(
    device: SshDevice, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(preflight.PROCESS_BYTES, "onnxruntime", 1 << 50)
    with refused("would not fit into the device's memory", "1048576.00 GiB", code=ExitCode.OUT_OF_SPACE):
        deployed(device, bundles[0])
    monkeypatch.undo()
    assert not device.store.exists()


def test_the_worst_host_decides_and_every_host_is_told_of(
    device: SshDevice, bundles: Bundles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        bundles[0],
        "known",
        "changed",
        "--packages",
        "device",
        "--ssh-config",
        device.config,
        "--systemd",
    )
    found = run_json(*words, code=ExitCode.REMOTE, monkeypatch=monkeypatch, capsys=capsys)["hosts"]
    assert [(host["host"], host["code"]) for host in found] == [("known", 0), ("changed", 8)]
    assert found[0]["outcome"]["current"] == device.current
    assert "unit written" in found[0]["outcome"]["service"] or found[0]["outcome"]["service"] == "running"
    assert "not the one that this machine knows" in found[1]["error"]["message"]
    unit = (device.folder / "home/.config/systemd/user/quamba-export.service").read_text()
    assert f"ExecStart={device.store}/current/bin/quamba-export serve {device.store}/current/bundle " in unit
    words = ("--status", "known", "--ssh-config", device.config)
    found = run_json(*words, code=0, monkeypatch=monkeypatch, capsys=capsys)["hosts"]
    assert [record["id"] for record in found[0]["outcome"]["releases"]] == [device.current]


def test_only_so_many_releases_stay(running: SshDevice, bundles: Bundles) -> None:
    last = deployed(running, bundles[1], keep=1).current
    assert releases(running) == {last}
    assert list((running.store / "incoming").iterdir()) == []


def test_an_export_is_built_on_the_device(device: SshDevice, bundles: Bundles) -> None:
    export = bundles[0].with_name("export-float32")
    with refused("is an export", "no --target", code=ExitCode.USAGE):
        plan(export)
    with refused("is a bundle", "--target cpu", code=ExitCode.USAGE):
        plan(bundles[0], target="cpu")
    with refused("cannot be built on a device", "build --portable", code=ExitCode.INCOMPATIBLE):
        plan(export, target="orin-nano")
    own = device.folder / "own.toml"  # a target that no release has data of
    own.write_text('name = "my-board"\ndescription = "a board of mine"\nbackend = "onnxruntime"\n')
    made = deployed(device, export, target=str(own))
    assert (made.state, made.same_bits) == ("deployed", True)
    assert (device.store / "current/target.toml").read_bytes() == own.read_bytes()
    assert read_manifest(device.store / "current/bundle").target == "my-board"
    assert {path.name for path in (device.store / "current/").iterdir()} == {
        "bin",
        "bundle",
        "release.json",
        "site",
        "target.toml",
    }
    assert read_manifest(device.store / "current/bundle").export_digest == read_manifest(export).digest
    assert deployed(device, export, target=str(own)).state == "unchanged"
    one = plan(export, target=str(own))
    own.write_text(own.read_text().replace("of mine", "of yours"))
    assert plan(export, target=str(own)).release_id(Path("site")) != one.release_id(Path("site"))


def test_a_build_that_fails_on_the_device_is_told(
    device: SshDevice, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(plan(bundles[0].with_name("export-float32"), target="cpu"), target=load_target("h200"))
    monkeypatch.setattr(actions, "check_device", lambda *arguments: None)
    with (
        Session("known", options(device)) as session,
        refused("h200 could not be built on the device", "TensorRT", code=ExitCode.INCOMPATIBLE),
    ):
        deploy_to(broken, session, lambda step: None)


def test_the_steps_of_several_hosts_are_a_live_table_on_a_terminal(running: SshDevice) -> None:
    """`changed` has another host key. The table goes when the work is done; results are on stdout."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    words = [sys.executable, "-m", "quamba_export.exporter.cli", "deploy", "--status", "known", "changed"]
    words += ["--ssh-config", str(running.config)]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the terminal's end
            while block := os.read(ours, 4096):
                shown += block
        results = process.communicate()[0]
    os.close(ours)
    assert process.returncode == ExitCode.REMOTE
    assert re.search(rb"host +step\s+known +\w+\s+changed +\w+", re.sub(rb"\x1b\[[0-9;?]*\w", b"", shown)), (
        shown
    )
    assert b"\x1b[1A" in shown  # written over, not below
    assert re.search(r"^known +status", results, re.MULTILINE), results
