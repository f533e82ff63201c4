"""`quamba-export inspect`: facts about a checkpoint or an artefact."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.console import Console


def inspect(
    path: Annotated[
        str, typer.Argument(help="A checkpoint (directory or hub id), calibration/, export/ or bundle/.")
    ],
    layer: Annotated[int, typer.Option(min=0, help="The layer whose scale table is shown.")] = 0,
    html: Annotated[
        Path | None, typer.Option(help="Of a calibration/, also write the errors of its scales as a page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what PATH holds: sizes, weights, states, scales and where they came from.

    Example: quamba-export inspect calibration/ --layer 3
    """
    from quamba_export.exporter.inspection.inspect import inspect_path

    facts = inspect_path(path, layer)
    if html is not None:
        if facts.kind != "calibration":
            raise QuambaError(
                "only scales are drawn",
                found=f"--html for a {facts.kind}",
                allowed="a calibration/",
                code=ExitCode.USAGE,
            )
        from quamba_export.exporter.report.scale_page import write_scale_page

        write_scale_page(facts, html)
    emit(facts, as_json, lambda console: show(asdict(facts), console))


def show(facts: dict[str, Any], console: Console) -> None:
    """Scalars as lines, objects as indented lines, lists of records as tables."""
    from rich.table import Table

    for key, value in facts.items():
        if isinstance(value, dict):
            console.print(f"[bold]{key}[/]")
            for name, item in value.items():
                console.print(f"  {name:<20} {item}", highlight=False)
        elif isinstance(value, list) and value:
            table = Table(*value[0], title=key, title_justify="left")
            for record in value:
                table.add_row(*map(cell, record.values()))
            console.print(table)
        else:
            console.print(f"[bold]{key}[/] {value}", highlight=False)


def cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
