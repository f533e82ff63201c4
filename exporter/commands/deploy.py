"""`quamba-export deploy`: a bundle onto devices."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json, RequireSignature
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.deploy.fleet import HostResult

PORT = 8000


def deploy(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="BUNDLE HOST...", help="A bundle/, and user@host of each device."),
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="HOST...: back to the release before.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="HOST...: what is there.")] = False,
    unit: Annotated[bool, typer.Option("--unit", help="Print the systemd unit, do nothing else.")] = False,
    require_signature: RequireSignature = None,
    target: Annotated[
        str | None, typer.Option(help="For an export/: what the device builds it for, with its own TensorRT.")
    ] = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Also install and start the user's systemd unit.")
    ] = False,
    serve_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the unit's server.")] = PORT,
    packages: Annotated[
        Literal["ship", "device"],
        typer.Option(help="Python packages: sent along, or those that the device's Python has."),
    ] = "ship",
    wheels: Annotated[
        Path | None, typer.Option(help="A folder of wheels for the device, instead of the package index.")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, max=99, help="Releases that stay on the device.")] = 3,
    identity: Annotated[Path | None, typer.Option(help="The private key.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of the SSH server.")] = None,
    ssh_config: Annotated[Path | None, typer.Option(help="Instead of ~/.ssh/config.")] = None,
    as_json: Json = False,
) -> None:
    """Copy a bundle to devices, test it there, and switch to it; what ran before runs until then.

    Exits with the code of the host that fared worst. An interrupted run goes on when it is run again.

    Example: quamba-export deploy bundle/ user@jetson
    """
    from quamba_export.exporter.artefacts import artefact_kind
    from quamba_export.exporter.deploy.actions import deploy_to, roll_back, status_of
    from quamba_export.exporter.deploy.fleet import Action, on_hosts, require_all
    from quamba_export.exporter.deploy.host import SshOptions, checked_hosts
    from quamba_export.exporter.deploy.plan import Choices, plan_deployment
    from quamba_export.exporter.deploy.rsync import check_rsync
    from quamba_export.exporter.deploy.unit import unit_text

    if unit:
        text = unit_text(serve_port, signed=require_signature is not None)
        emit({"unit": text}, as_json, lambda console: print(text, end=""))
        return
    options = SshOptions(identity, port, ssh_config)
    options.check()
    words = words or []
    if rollback or status:
        if require_signature is not None:
            raise QuambaError(
                "--require-signature is for what is sent",
                found=f"--{'rollback' if rollback else 'status'} --require-signature {require_signature}",
                fix="leave it out: a release that was sent with it is verified again at a rollback",
                code=ExitCode.USAGE,
            )
        flag = "--rollback" if rollback else "--status"
        if words and artefact_kind(Path(words[0])) in ("bundle", "export"):
            raise QuambaError(
                f"{flag} is about what is on the devices and takes their names alone",
                found=f"the {artefact_kind(Path(words[0]))} {words[0]}",
                fix=f"quamba-export deploy {flag} {' '.join(words[1:]) or 'user@host'}",
                code=ExitCode.USAGE,
            )
        hosts = checked_hosts(words, f"deploy {flag} user@host")
        action: Action = roll_back if rollback else status_of
    else:
        hosts = checked_hosts(words[1:], f"deploy {words[0] if words else 'bundle/'} user@host")
        check_rsync()
        choices = Choices(packages, wheels, keep, serve_port if systemd else None, target, require_signature)
        plan = plan_deployment(Path(words[0]), choices)
        action = partial(deploy_to, plan)
    results = on_hosts(hosts, options, action, quiet=as_json)
    emit({"hosts": results}, as_json, lambda console: show(results, console))
    require_all(results)


def show(results: list[HostResult], console: Console) -> None:
    """A row a host, what went wrong below."""
    from rich.markup import escape
    from rich.table import Table

    from quamba_export.exporter.deploy.ssh_errors import printable

    table = Table("host", "result", "release", "before", "device", box=None, pad_edge=False)
    for result in results:
        done = result.outcome
        if done is None:
            table.add_row(escape(result.host), f"[red]exit {result.code}[/]")
            continue
        state = f"{done.state} ({printable(done.damaged)})" if done.damaged else done.state
        state += f", service {done.service}" if done.service else ""
        cells = (result.host, state, done.current or "none", done.before or "", str(done.device or ""))
        table.add_row(*map(escape, cells))
        for record in done.releases:
            found = (
                f"{record.get('target')} {record.get('qformat')}, {record.get('at')} by {record.get('by')}"
            )
            found = f"damaged: {record['damaged']}" if "damaged" in record else found
            table.add_row("", "", escape(str(record.get("id"))), "", escape(printable(found)))
        for name in done.incoming:
            table.add_row("", "interrupted", escape(name))
    console.print(table, highlight=False)
    if len(results) > 1:
        for result in results:
            if result.error:
                console.print(
                    f"[red]{escape(result.host)}[/]: {escape(result.error.message)}", highlight=False
                )
                console.print(
                    f"  found: {result.error.found}\n  fix: {result.error.fix}", markup=False, highlight=False
                )
