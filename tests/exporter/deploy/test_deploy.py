"""`deploy` against a real SSH server: what it leaves on the device, and what a failure leaves there."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from refusals import refused
from ssh_device import CutProxy, SshDevice

from quamba_export.exporter import cli
from quamba_export.exporter.deploy import actions, preflight
from quamba_export.exporter.deploy.actions import (
    Outcome,
    deploy_to,
    roll_back,
    status_of,
)
from quamba_export.exporter.deploy.host import SshOptions
from quamba_export.exporter.deploy.plan import Choices, Plan, plan_deployment
from quamba_export.exporter.deploy.ssh import Session
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import read_manifest
from quamba_export.targets.target import load_target

Bundles = tuple[Path, Path, Path]
LOST = ExitCode.INCOMPLETE
STEPS = ("packages", "copy site", "copy bundle", "self-test", "switch")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def running(device: SshDevice, bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> SshDevice:
    """A device that the first bundle was deployed to, once for all tests."""
    kept = tmp_path_factory.getbasetemp() / "running"
    if kept.exists():
        shutil.copytree(kept, device.store, symlinks=True)
    else:
        deployed(device, bundles[0])
        shutil.copytree(device.store, kept, symlinks=True)
    return device


def options(device: SshDevice) -> SshOptions:
    return SshOptions(config=device.config)


def plan(bundle: Path, **choices: Any) -> Plan:
    return plan_deployment(bundle, Choices("device", **choices))


def deployed(device: SshDevice, bundle: Path, host: str = "known", **choices: Any) -> Outcome:
    with Session(host, options(device)) as session:
        return deploy_to(plan(bundle, **choices), session, lambda step: None)


def releases(device: SshDevice) -> set[str]:
    return {path.name for path in (device.store / "releases").iterdir()}


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
    files = [
        device.store / f"releases/{name}/site/quamba_export/cli" for name in (first.current, second.current)
    ]
    assert releases(device) == {first.current, second.current}, files

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


def test_a_connection_killed_at_any_step_changes_nothing_and_goes_on(
    running: SshDevice, bundles: Bundles
) -> None:
    before = running.current
    for step in STEPS:
        with Session("known", options(running)) as session, refused("run the same command again", code=LOST):
            deploy_to(plan(bundles[1]), session, partial(killed_at, step, session))
        assert running.current == before, step
        wait_until_free(running)
    assert releases(running) > {before}  # the last one was tested, and not switched to
    assert deployed(running, bundles[1]).before == before


def killed_at(step: str, session: Session, now: str) -> None:
    if now.startswith(step):
        session.process.kill()
        session.process.wait()


def wait_until_free(device: SshDevice) -> None:
    """A killed session's lock is free once its agent has noticed."""
    for _ in range(200):
        with (device.store / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
            else:
                return
    raise TimeoutError


def test_a_line_cut_after_any_number_of_bytes_is_taken_up_again(device: SshDevice, bundles: Bundles) -> None:
    with CutProxy(device.port) as proxy:
        device.config.write_text(device.config.read_text() + device.entry("cut", proxy.port, "known"))
        for count in (0, 700, 5_000, 45_000, 600_000):
            cut_off(device, bundles[0], proxy, count)
            assert device.current is None
        assert next((device.store / "incoming").iterdir()).is_dir()
        proxy.left, proxy.passed = sys.maxsize, 0
        first = deployed(device, bundles[0], "cut")
        sizes = [path.stat().st_size for path in (device.store / "current/").rglob("*") if path.is_file()]
        assert proxy.passed < sum(sizes) - 200_000  # what came over before was not sent again
        for count in (5_000, 35_000):
            cut_off(device, bundles[1], proxy, count)
            assert (device.current, releases(device)) == (first.current, {first.current})


def cut_off(device: SshDevice, bundle: Path, proxy: CutProxy, count: int) -> None:
    proxy.left = count
    with pytest.raises(QuambaError) as caught:
        deployed(device, bundle, "cut")
    assert caught.value.code in (ExitCode.INCOMPLETE, ExitCode.REMOTE), caught.value
    if device.store.exists():
        wait_until_free(device)


def test_a_killed_deployer_leaves_no_lock(running: SshDevice, bundles: Bundles) -> None:
    device, before = running, running.current
    command = [sys.executable, "-m", "quamba_export.exporter.cli", "deploy", str(bundles[1]), "known"]
    more = ["--packages", "device", "--ssh-config", str(device.config)]
    with subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "copy" in line:
                process.kill()
                break
    wait_until_free(device)
    assert device.current == before
    assert deployed(device, bundles[1]).before == before


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


def test_a_disk_that_is_full_on_the_way_is_said_and_mended(
    device: SshDevice, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.store.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(device.store)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no mounts of the tests' own: run as root")
    try:
        with refused("would not fit onto the device's disk", "MiB free", code=ExitCode.OUT_OF_SPACE):
            deployed(device, bundles[0])
        monkeypatch.setattr(preflight, "DISK_MARGIN", -(1 << 30))  # another program fills it meanwhile
        with refused("disk of known is full", code=ExitCode.OUT_OF_SPACE):
            deployed(device, bundles[0])
        assert device.current is None
        subprocess.run(["mount", "-o", "remount,size=64m", str(device.store)], check=True)
        assert deployed(device, bundles[0]).state == "deployed"
    finally:
        subprocess.run(["umount", str(device.store)], check=True)


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
    made = deployed(device, export, target="cpu")
    assert (made.state, made.same_bits) == ("deployed", True)
    assert {path.name for path in (device.store / "current/").iterdir()} == {
        "bin",
        "bundle",
        "release.json",
        "site",
    }
    assert read_manifest(device.store / "current/bundle").export_digest == read_manifest(export).digest
    assert deployed(device, export, target="cpu").state == "unchanged"


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
