"""`deploy` that is interrupted: by killed sessions, cut lines, a killed deployer, a full disk."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from deploying import deployed, killed_at, options, plan, releases, wait_until_free
from refusals import refused
from ssh_device import CutProxy, SshDevice

from quamba_export.exporter.deploy import preflight
from quamba_export.exporter.deploy.actions import deploy_to
from quamba_export.exporter.deploy.ssh import Session
from quamba_export.runtime.errors import ExitCode, QuambaError

Bundles = tuple[Path, Path, Path]
LOST = ExitCode.INCOMPLETE
STEPS = ("packages", "copy site", "copy bundle", "self-test", "switch")
pytestmark = pytest.mark.xdist_group("device")


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


def test_a_line_cut_after_any_number_of_bytes_is_taken_up_again(device: SshDevice, bundles: Bundles) -> None:
    with CutProxy(device.port) as proxy:
        device.config.write_text(device.config.read_text() + device.entry("cut", proxy.port, "known"))
        for count in (0, 700, 5_000, 45_000):
            cut_off(device, bundles[0], proxy, count)
            assert device.current is None
        proxy.linger = 0.5  # what has arrived is written, as where a line falls silent
        cut_off(device, bundles[0], proxy, 900_000)
        proxy.linger = 0.0
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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_deployer_leaves_no_lock(running: SshDevice, bundles: Bundles, number: int) -> None:
    device, before = running, running.current
    command = [sys.executable, "-m", "quamba_export.exporter.cli", "deploy", str(bundles[1]), "known"]
    more = ["--packages", "device", "--ssh-config", str(device.config)]
    with subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "copy" in line:
                process.send_signal(number)
                break
        process.wait(20)
    assert process.returncode in (-number, 128 + number)
    wait_until_free(device)
    assert device.current == before
    assert deployed(device, bundles[1]).before == before


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
