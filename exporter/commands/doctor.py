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
    """A line a check, dim where the use does not need it; below what is not ok, what needs it and the fix.

    No line is broken at the terminal's width: what may be copied, a path or a command, stays whole.
    """
    from rich.markup import escape

    width = max(len(check.name) for check in diagnosis.checks)
    for check in diagnosis.checks:
        state = f"[{STYLE[check.state]}]{check.state:<7}[/]"
        lines = [f"{state}  {check.name:<{width}}  {escape(check.found)}"]
        if check.state != "ok":
            lines.append(f"needed for {', '.join(check.needed_for) or 'an option'}: {escape(check.purpose)}")
        if check.fix:
            lines.append(f"fix: [bold]{escape(check.fix)}[/]")
        style = None if diagnosis.use in check.needed_for else "dim"
        console.print(f"\n{'':{width + 11}}".join(lines), style=style, highlight=False, soft_wrap=True)
    if diagnosis.ready:
        console.print(f"ready for {diagnosis.use}")
