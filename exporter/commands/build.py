"""`quamba-export build`: a bundle for one target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json, Output

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.build import Build


def build(
    export: Annotated[Path, typer.Argument(help="An export/ directory.")],
    out: Output,
    target: Annotated[str, typer.Option(help="Where the bundle runs: cpu.")],
    as_json: Json = False,
) -> None:
    """Make a bundle/ that the runtime loads: graph, weights, tokenizer and a manifest of digests.

    Example: quamba-export build export/ --target cpu -o bundle/
    """
    from quamba_export.exporter.build import build_bundle

    result = build_bundle(export, target, out)
    emit(result, as_json, lambda console: show(result, console))


def show(result: Build, console: Console) -> None:
    console.print(f"[bold]{result.bundle}[/] for {result.target} ({result.backend})")
    for name, size in result.files.items():
        console.print(f"  {size:>12,} bytes  {name}")
