"""`quamba-export export-triton`: a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json


def export_triton(
    bundle: Annotated[Path, typer.Argument(help="A bundle/ with TensorRT engines.")],
    export: Annotated[Path, typer.Option(help="The export/ that it was built of.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The repository; the path must be free.")],
    name: Annotated[str, typer.Option(help="The model's name in Triton.")] = "quamba",
    as_json: Json = False,
) -> None:
    """Write a Triton model repository: a plan with weights and plugins, config, README. On the GPU's machine.

    Example: quamba-export export-triton bundle/ --export export/ -o repository/
    """
    from quamba_export.exporter.bundle.triton import write_repository

    made = write_repository(bundle, export, out, name)
    text = f"{made.path}: model {made.model}, a plan of {made.plan_bytes} bytes; see README.md there"
    emit(made, as_json, lambda console: console.print(text))
