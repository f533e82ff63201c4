"""What is done on one host: deploy, roll back, tell the status. Each reports its steps."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from quamba_export.exporter.deploy.packages import Packages, site_folder
from quamba_export.exporter.deploy.preflight import (
    Device,
    check_device,
    check_disk,
    check_memory,
    device_from,
    needs_of,
)
from quamba_export.exporter.deploy.rsync import copy_folder
from quamba_export.exporter.deploy.ssh import Session
from quamba_export.exporter.deploy.unit import unit_text
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.manifest import Manifest, read_manifest

Report = Callable[[str], None]  # the step that begins


@dataclass(frozen=True)
class Plan:
    """One deployment, the same for every host."""

    bundle: Path
    manifest: Manifest
    packages: Packages
    wheels: Path | None
    keep: int  # releases, the current one among them
    port: int | None  # of the systemd unit that is to be installed


@dataclass(frozen=True)
class Outcome:
    """What a host is left with."""

    state: str  # "deployed", "unchanged", "rolled back" or "status"
    current: str | None  # id of the release
    before: str | None = None
    same_bits: bool | None = None  # whether the self-test's logits are the build's, too
    service: str | None = None  # how systemd took it
    device: Device | None = None
    releases: tuple[dict[str, Any], ...] = ()  # release.json of each, of a status
    incoming: tuple[str, ...] = ()  # ids of interrupted copies, of a status


def plan_deployment(
    bundle: Path, packages: Packages, wheels: Path | None, keep: int, port: int | None
) -> Plan:
    """Verify the bundle. Raises QuambaError: exit 4 for a changed one, 3 for what no device can run."""
    manifest = read_manifest(bundle)
    if manifest.kind != "bundle" or manifest.self_test is None:
        raise QuambaError(
            f"{bundle} cannot be deployed",
            found="an export" if manifest.kind == "export" else "a bundle without a self-test",
            allowed="a bundle that `quamba-export build` of this release made",
            fix="quamba-export build export/ --target ... -o bundle/",
        )
    return Plan(bundle, manifest, packages, wheels, keep, port)


def deploy_to(plan: Plan, session: Session, report: Report) -> Outcome:
    """Preflight, copy, self-test, switch; what is done already is not done again.

    Raises QuambaError: exit 5 for a device that cannot run the bundle, 6 where memory or disk is short, 7
    where the connection is lost, 8 where somebody else deploys, 9 where the self-test gives other tokens.
    """
    report("preflight")
    device = device_from(session.call("probe"))
    check_device(device, plan.manifest, plan.bundle)
    check_memory(device, needs_of(plan.manifest))
    report("packages")
    site = site_folder(device, plan.manifest.backend, plan.packages, plan.wheels)
    name = release_id(plan.manifest, site)
    owner = take_lock(session)
    place = session.call("stage", name=name)
    same_bits = None
    if place["state"] == "incoming":
        check_disk(device, _size(site) + _size(plan.bundle), int(place["bytes"]))
        _copy(session, plan.bundle, site, place, report)
        report("self-test")
        tested = session.call("install", name=name, digest=plan.manifest.digest, record=_record(plan, owner))
        same_bits = bool(tested["same_bits"])
    report("switch")
    switched: dict[str, Any] = {"before": name, "service": None}
    if place["state"] != "current":
        switched = session.call("activate", name=name, keep=plan.keep)
    service = switched["service"]
    if plan.port is not None:
        service = session.call("write_unit", text=unit_text(plan.port, f"{place['root']}/current"))
    state = "unchanged" if place["state"] == "current" else "deployed"
    return Outcome(state, name, switched["before"], same_bits, service, device)


def roll_back(session: Session, report: Report) -> Outcome:
    """Back to the release before, which passes its self-test again first."""
    take_lock(session)
    report("self-test")
    done = session.call("rollback")
    return Outcome(
        "rolled back",
        done["current"],
        done["before"],
        bool(done["self_test"]["same_bits"]),
        done["service"],
    )


def status_of(session: Session, report: Report) -> Outcome:
    """What is there. Takes no lock."""
    report("status")
    device = device_from(session.call("probe"))
    found = session.call("status")
    return Outcome(
        "status",
        found["current"],
        device=device,
        releases=tuple(found["releases"]),
        incoming=tuple(found["incoming"]),
    )


def take_lock(session: Session) -> str:
    """Returns the name that others are told."""
    owner = f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}"
    session.call("lock", owner=owner, since=_now())
    return owner


def release_id(manifest: Manifest, site: Path) -> str:
    """The same bundle with the same packages is the same release."""
    return sha256(f"{manifest.digest}\0{site.name}".encode()).hexdigest()[:16]


def _copy(session: Session, bundle: Path, site: Path, place: dict[str, Any], report: Report) -> None:
    """Packages may share their files with the current release; a bundle may not, its files have one name."""
    links = [f"--link-dest={place['basis']}/site"] if place["basis"] else []
    likes = [f"--copy-dest={place['basis']}/bundle"] if place["basis"] else []
    for part, source, options in (("site", site, links), ("bundle", bundle, ["--checksum", *likes])):
        target = f"{place['path']}/{part}"
        copy_folder(session, source, target, _percent(report, part), options)


def _percent(report: Report, part: str) -> Callable[[int], None]:
    return lambda percent: report(f"copy {part} {percent} %")


def _record(plan: Plan, owner: str) -> dict[str, Any]:
    """release.json, but for what the device adds."""
    manifest = plan.manifest
    return {
        "bundle_digest": manifest.digest,
        "target": manifest.target,
        "qformat": manifest.qformat,
        "packages": plan.packages,
        "by": owner,
        "at": _now(),
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
