"""`quamba-export build`: a bundle for one target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json, Output
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.bundle.build import Build


def build(
    export: Annotated[Path, typer.Argument(help="An export/ directory.")],
    out: Output,
    target: Annotated[
        str | None,
        typer.Option(
            help="Where the bundle runs: cpu, h200, orin-nano, ... (`quamba-export targets`), or a .toml."
        ),
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="For no target yet: with what any device builds its own from.")
    ] = False,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Sequences at once (TensorRT).")] = None,
    prefill_length: Annotated[int | None, typer.Option(min=2, help="Tokens a call (TensorRT).")] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(help="File of tactics timed before, instead of the user's own cache.")
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Engines for later TensorRTs too, also lean ones."),
    ] = False,
    plugins: Annotated[Path | None, typer.Option(help="libquamba_plugins.so; made here if left out.")] = None,
    jetpack: Annotated[int | None, typer.Option(min=6, max=7, help="Of an Orin, made elsewhere.")] = None,
    as_json: Json = False,
) -> None:
    """Make a bundle/ that the runtime loads: model, tokenizer and a manifest of digests.

    For a GPU target run it on that device: TensorRT builds its engines there. For an Orin on another machine
    this compiles the plugins and writes an export/ that holds them, which `build` on the Orin finishes. With
    --portable it writes one that holds graphs for TensorRT and the plugins' sources: `build` on the device
    makes engines of it without torch.

    Example: quamba-export build export/ --target cpu -o bundle/
    """
    from quamba_export.exporter.artefacts import tell_replaced
    from quamba_export.exporter.bundle.build import EngineChoices, build_bundle, build_portable

    choices = EngineChoices(
        plugins=plugins,
        max_batch=max_batch,
        prefill_length=prefill_length,
        timing_cache=timing_cache,
        version_compatible=version_compatible,
        jetpack=jetpack,
    )
    if (target is None) != portable or (portable and choices != EngineChoices()):
        raise QuambaError(
            "a bundle is for one target, or portable",
            found="--portable with options of a target" if portable else "no --target",
            allowed="--target NAME, or --portable alone",
            code=ExitCode.USAGE,
        )
    tell_replaced(out, "export" if portable else "bundle")
    result = build_bundle(export, target, out, choices) if target else build_portable(export, out)
    emit(result, as_json, lambda console: show(result, console))


def show(result: Build, console: Console) -> None:
    console.print(f"[bold]{result.bundle}[/] for {result.target} ({result.backend})")
    for name, size in result.files.items():
        console.print(f"  {size:>12,} bytes  {name}")
    if result.kind == "export":
        name, target = Path(result.bundle).name, "TARGET" if result.target == "any" else result.target
        console.print(
            f"copy it to the device, and there: quamba-export build {name} --target {target} -o bundle"
        )
