"""What is done on one host: deploy, roll back, tell the status. Each reports its steps."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from quamba_export.exporter.deploy.device.contents import tree_digest
from quamba_export.exporter.deploy.packages import site_folder
from quamba_export.exporter.deploy.plan import Plan
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
from quamba_export.exporter.deploy.ssh_errors import printable
from quamba_export.exporter.deploy.unit import unit_text

Report = Callable[[str], None]  # the step that begins


@dataclass(frozen=True)
class Outcome:
    """What a host is left with."""

    state: str  # "deployed", "repaired", "unchanged", "rolled back" or "status"
    current: str | None  # id of the release
    before: str | None = None
    same_bits: bool | None = None  # whether the self-test's logits are the build's, too
    damaged: str | None = None  # what was found of a release that was there, and has been repaired
    service: str | None = None  # how systemd took it
    device: Device | None = None
    releases: tuple[dict[str, Any], ...] = ()  # release.json of each, of a status
    incoming: tuple[str, ...] = ()  # ids of interrupted copies, of a status


def deploy_to(plan: Plan, session: Session, report: Report) -> Outcome:
    """Preflight, copy, self-test, switch; what is done already, and is whole, is not done again.

    Raises QuambaError: exit 5 for a device that cannot run the bundle, 6 where memory or disk is short, 7
    where the connection is lost, 8 where somebody else deploys, 9 where the self-test gives other tokens.
    """
    report("preflight")
    device = device_from(session.call("probe"))
    check_device(device, plan.manifest, plan.source, plan.target)
    check_memory(device, needs_of(plan.manifest, plan.backend))
    report("packages")
    choices = plan.choices
    site = site_folder(
        device,
        plan.backend,
        choices.packages,
        choices.wheels,
        builds=plan.target is not None,
        signed=plan.signed,
    )
    name = plan.release_id(site)
    owner = take_lock(session)
    place = _place(session, plan, name, site, report)
    same_bits = None
    if place["state"] == "incoming":
        same_bits = _install(session, plan, site, place, _record(plan, owner, name), report)
    elif place["state"] == "whole":
        report("self-test")
        same_bits = bool(session.call("test", name=name)["same_bits"])
    report("switch")
    switched: dict[str, Any] = {"before": name, "service": None}
    if place["state"] != "current":
        unit = choices.port is not None
        switched = session.call("activate", name=name, keep=choices.keep, unit_follows=unit)
    service = switched["service"]
    if choices.port is not None:
        text = unit_text(choices.port, f"{place['root']}/current", signed=plan.verified_by_runtime)
        service = session.call("write_unit", text=text)
    damaged = place.get("damaged")
    state = "repaired" if damaged else "unchanged" if place["state"] == "current" else "deployed"
    return Outcome(state, name, switched["before"], same_bits, damaged, service, device)


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
        service=done["service"],
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


def _place(session: Session, plan: Plan, name: str, site: Path, report: Report) -> dict[str, Any]:
    """Where the release goes to; of one that is there every file is read and compared first."""
    place: dict[str, Any] = session.call("stage", name=name)
    if place["state"] == "incoming":
        return place
    report("check")
    place = session.call(
        "check", name=name, wanted=plan.wanted(), site=tree_digest(site), files=plan.small_files()
    )
    if place["damaged"]:
        report(f"repair: {printable(place['damaged'])}")
    return place


def _install(
    session: Session, plan: Plan, site: Path, place: dict[str, Any], record: dict[str, Any], report: Report
) -> bool:
    """Copy, build where it is to be built there, and test. Returns whether the logits have the same bits."""
    check_disk(device_from(session.call("probe")), _size(site) + _size(plan.source), int(place["bytes"]))
    path, basis = place["path"], place["basis"]
    # packages may share their files with the current release; a bundle may not: no hard links there
    links = ["--checksum", *([f"--link-dest={basis}/site"] if basis else [])]
    copy_folder(session, site, f"{path}/site", _percent(report, "site"), links)
    likes = ["--checksum", *([f"--copy-dest={basis}/bundle"] if basis and not plan.target else [])]
    copy_folder(session, plan.source, f"{path}/{plan.part}", _percent(report, plan.part), likes)
    if plan.target:
        report(f"build for {plan.target.name}")
        words = {"target": plan.target.name, "target_file": plan.target_file, "signer": plan.signer}
        session.call("build", name=record["id"], **words)
    report("self-test")
    signer = plan.signer if plan.verified_by_runtime else ""
    tested = session.call(
        "install",
        name=record["id"],
        wanted=plan.wanted(),
        expected=plan.expected,
        record=record,
        signer=signer,
    )
    return bool(tested["same_bits"])


def _percent(report: Report, part: str) -> Callable[[int], None]:
    return lambda percent: report(f"copy {part} {percent} %")


def _record(plan: Plan, owner: str, name: str) -> dict[str, Any]:
    """release.json, but for what the device adds."""
    return {
        "id": name,
        "target": plan.target.name if plan.target else plan.manifest.target,
        "qformat": plan.manifest.qformat,
        "packages": plan.choices.packages,
        "by": owner,
        "at": _now(),
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
