"""`quamba-export doctor`: what this machine lacks. Runs with any extra, and with none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.doctor.doctor import Diagnosis

STYLE = {"ok": "green", "missing": "yellow", "wrong": "red"}


def doctor(
    use: Annotated[
        Literal["cpu", "gpu-run", "gpu-build", "calibrate"],
        typer.Option("--for", help="The use whose needs decide the exit code."),
    ] = "cpu",
    plugins: Annotated[
        Path | None, typer.Option(help="A libquamba_plugins.so to load into TensorRT's registry and launch.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle/ to verify and to run, its plugin library as above.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is installed, what is missing or wrong, and the command that installs it.

    Exits with 0 where all that the named use needs is there, else with 5.

    Example: quamba-export doctor --for gpu-run --bundle bundle/
    """
    from quamba_export.exporter.doctor.doctor import diagnose, require_ready

    diagnosis = diagnose(use, plugins, bundle)
    emit(diagnosis, as_json, lambda console: show(diagnosis, console))
    require_ready(diagnosis)


def show(diagnosis: Diagnosis, console: Console) -> None:
    """A row a check, dim where the use does not need it; what is not ok has its fix below."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "", box=None, pad_edge=False)
    for title in ("found", "needed for"):
        table.add_column(title, overflow="fold")  # a path is of use whole only
    for check in diagnosis.checks:
        counts = diagnosis.use in check.needed_for
        fix = f"\n[bold]{escape(check.fix)}[/]" if check.fix else ""
        needed = f"{', '.join(check.needed_for) or 'option'}: {escape(check.purpose)}"
        state = f"[{STYLE[check.state]}]{check.state}[/]"
        table.add_row(state, check.name, escape(check.found) + fix, needed, style=None if counts else "dim")
    console.print(table, highlight=False)
    if diagnosis.ready:
        console.print(f"ready for {diagnosis.use}")
