"""Deployments to the SSH server of the tests."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path
from typing import Any

from ssh_device import SshDevice

from quamba_export.exporter.deploy.actions import Outcome, deploy_to
from quamba_export.exporter.deploy.host import SshOptions
from quamba_export.exporter.deploy.plan import Choices, Plan, plan_deployment
from quamba_export.exporter.deploy.ssh import Session


def options(device: SshDevice) -> SshOptions:
    return SshOptions(config=device.config)


def plan(bundle: Path, **choices: Any) -> Plan:
    return plan_deployment(bundle, Choices("device", **choices))


def deployed(device: SshDevice, bundle: Path, host: str = "known", **choices: Any) -> Outcome:
    with Session(host, options(device)) as session:
        return deploy_to(plan(bundle, **choices), session, lambda step: None)


def releases(device: SshDevice) -> set[str]:
    return {path.name for path in (device.store / "releases").iterdir()}


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


def killed_at(step: str, session: Session, now: str) -> None:
    """A report that kills its session's connection where a step begins."""
    if now.startswith(step):
        session.process.kill()
        session.process.wait()
