"""`deploy` to a device in a network namespace of its own, over a cable that can be pulled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from refusals import refused
from ssh_device import SshDevice, sshd

from quamba_export.exporter.deploy.actions import deploy_to
from quamba_export.exporter.deploy.host import SshOptions
from quamba_export.exporter.deploy.plan import Choices, plan_deployment
from quamba_export.exporter.deploy.ssh import Session
from quamba_export.runtime.errors import ExitCode

NAMESPACE, NEAR, FAR = f"quamba-{os.getpid()}", f"qn{os.getpid()}", f"qf{os.getpid()}"
CABLE = (
    f"ip netns add {NAMESPACE}",
    f"ip link add {NEAR} type veth peer name {FAR} netns {NAMESPACE}",
    f"ip address add 10.231.77.1/30 dev {NEAR}",
    f"ip link set {NEAR} up",
    f"ip -n {NAMESPACE} address add 10.231.77.2/30 dev {FAR}",
    f"ip -n {NAMESPACE} link set {FAR} up",
)


def ip(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[SshDevice]:
    sshd()
    device = SshDevice(tmp_path, "10.231.77.2", ("ip", "netns", "exec", NAMESPACE))
    try:
        for command in CABLE:
            ip(command)
    except (OSError, subprocess.CalledProcessError) as error:
        subprocess.run(["ip", "netns", "delete", NAMESPACE], capture_output=True, check=False)
        pytest.skip(f"no network namespaces: {error}")
    server = device.start()
    try:
        device.wait()
        yield device
    finally:
        server.terminate()
        server.wait()
        ip(f"ip netns delete {NAMESPACE}")


def test_a_device_across_a_cable(
    far: SshDevice, bundles: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plan, options = plan_deployment(bundles[0], Choices("device")), SshOptions(config=far.config)
    with Session("known", options) as session:
        assert deploy_to(plan, session, lambda step: None).state == "deployed"
    ip(
        f"ip -n {NAMESPACE} link set {FAR} down"
    )  # the far end: without the near one, another route may answer
    with refused("known cannot be reached", "check the network", code=ExitCode.REMOTE):
        Session("known", options).__enter__()
    ip(f"ip -n {NAMESPACE} link set {FAR} up")
    with Session("known", options) as session:
        assert deploy_to(plan, session, lambda step: None).state == "unchanged"
