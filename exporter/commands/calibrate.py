"""`quamba-export calibrate`: a static scale for every site, found on text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit, progress, say
from quamba_export.exporter.options import Device, Json, Output
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from quamba_export.calib.config import MambaConfig
    from quamba_export.calib.mixed_data import Source
    from quamba_export.calib.recipes.recipe import Recipe


def calibrate(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint directory or hub id.")],
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            metavar="TEXT",
            help="A .txt or .jsonl file, or the name of a Hugging Face dataset. May be repeated: a mixture.",
        ),
    ],
    out: Output,
    data_weight: Annotated[
        list[float] | None,
        typer.Option(metavar="NUMBER", help="Share of each --data in the samples, in order. Default: equal."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="quamba, quamba2, ..., or a .toml file. Default: by the kind of model.")
    ] = None,
    group_heads: Annotated[
        bool, typer.Option("--group-heads", help="The published code's name for --recipe quamba2.")
    ] = False,
    calib_size: Annotated[
        int, typer.Option("--calib-size", "--calib-data-num", min=1, help="Samples: windows of the text.")
    ] = 512,
    calib_seqlen: Annotated[int, typer.Option("--calib-seqlen", min=1, help="Tokens a sample.")] = 512,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Draw the samples from the whole text; without it they are its first."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; any number gives the same bytes.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run ended.")] = False,
    rounding: Annotated[
        str | None,
        typer.Option(
            "--rounding", help="nearest, gptq: how weights are rounded, instead of the recipe's way."
        ),
    ] = None,
    weight_bits: Annotated[
        int | None, typer.Option(help="gptq: 4 (for --qformat w4a8, w4a16; the default) or 8 (w8a8).")
    ] = None,
    lm_head_bits: Annotated[
        int | None, typer.Option(help="gptq: round lm_head too, to 4 or 8 (for export --lm-head-bits).")
    ] = None,
    damping: Annotated[
        float | None, typer.Option(help="gptq: share of the Hessian's mean diagonal added to it, 0.01.")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option(help="gptq, 4 bits: columns that share a scale, a multiple of 128; 128.")
    ] = None,
    act_order: Annotated[
        bool | None,
        typer.Option("--act-order/--no-act-order", help="gptq: the columns of the loudest inputs first."),
    ] = None,
    descent_sweeps: Annotated[
        int | None,
        typer.Option(min=0, help="gptq: rounds of coordinate descent on its codes and scales; 0, 4 pays."),
    ] = None,
    clip_weights: Annotated[
        bool | None,
        typer.Option(
            "--clip-weights/--no-clip-weights",
            help="Weight scales of the least squared error, or of the largest value.",
        ),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Observe the float model on text and choose a scale for every site; with --rounding gptq, round weights.

    Example: quamba-export calibrate CHECKPOINT --data calibration.txt -o calibration/ --calib-size 128

    On several hosts: torchrun --nnodes 2 --nproc-per-node 4 ... --no-python quamba-export calibrate ...
    """
    from quamba_export.calib.calibrate import calibrate
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.device import torch_device
    from quamba_export.calib.ranks import rank
    from quamba_export.calib.recipes.recipe import default_recipe, load_recipe
    from quamba_export.exporter.artefacts import tell_replaced

    torch_device(device)
    if group_heads and recipe not in (None, "quamba2"):
        found = f"--group-heads and --recipe {recipe}"
        raise QuambaError("two recipes", found=found, allowed="one of them", code=ExitCode.USAGE)
    recipe = "quamba2" if group_heads else recipe
    sources = weighted(data, data_weight or [1.0] * len(data))
    table = rounding, weight_bits, lm_head_bits, damping, group_size, act_order, clip_weights
    weights = rounding_options(*table, descent_sweeps)
    with progress(f"calibrate {checkpoint}", unit="samples") as bar, resumable():
        source = load_checkpoint(checkpoint)
        chosen = load_recipe(recipe) if recipe else default_recipe(source.config)
        if rank() == 0:
            tell_replaced(out, "calibration")
            tell_unfinished(out, resume)
        warnings = check_data(chosen, source.config, calib_size, calib_seqlen, refuse=recipe is not None)
        result = calibrate(
            source,
            sources,
            chosen.rounded_by(weights) if weights else chosen,
            calib_size=calib_size,
            calib_seqlen=calib_seqlen,
            seed=seed,
            workers=workers,
            device=device,
            out_dir=out,
            resume=resume,
            progress=lambda stage: bar.show(stage.done, stage.total),
        )
    if rank() > 0:
        return
    facts = {"calibration": str(out), "digest": result.digest, "recipe": result.recipe.name, **result.run}
    facts |= {"warnings": warnings}
    emit(facts | {"sites": len(result.scales)}, as_json, lambda console: show(facts, console))


def tell_unfinished(out: Path, resume: bool) -> None:
    """Say on stderr that a stopped run beside `out` is dropped, or that `resume` finds none there."""
    from quamba_export.calib.calibrate import partial_directory
    from quamba_export.calib.progress_file import FILE

    folder = partial_directory(out)
    unfinished = (folder / FILE).exists()
    if resume and not unfinished:
        say(f"nothing to resume in {folder}: calibrating from the first sample")
    elif unfinished and not resume:
        say(f"{folder} holds an unfinished calibration: begun anew, as --resume was not given")


def weighted(texts: list[str], weights: list[float]) -> list[Source]:
    """The texts with their weights, one for each."""
    from quamba_export.calib.mixed_data import Source

    if len(weights) != len(texts):
        raise QuambaError(
            "weights and texts do not match",
            found=f"{len(texts)} --data and {len(weights)} --data-weight",
            allowed="a --data-weight for every --data, in the same order, or none",
            code=ExitCode.USAGE,
        )
    return [Source(text, weight) for text, weight in zip(texts, weights, strict=True)]


def check_data(recipe: Recipe, config: MambaConfig, size: int, seqlen: int, *, refuse: bool) -> list[str]:
    """Refuse data too short for a recipe that was asked for; warn where it is the model's default."""
    from quamba_export.calib.enough_data import check_enough

    recipe.check_fits(config)
    if refuse:
        check_enough(recipe, config, size, seqlen)
    return tell_shortages(recipe, config, size, seqlen)


def tell_shortages(recipe: Recipe, config: MambaConfig, size: int, seqlen: int) -> list[str]:
    """Warn, in one line and on one rank, of sites with too few values; all of them in words."""
    from quamba_export.calib.enough_data import shortages
    from quamba_export.calib.ranks import rank

    warnings = [
        f"{short.site} has {short.found} values a scale in {short.counted}, "
        f"{short.observer.kind} needs {short.needed}"
        for short in shortages(recipe, config, size, seqlen)
    ]
    if warnings and rank() == 0:
        more = f" (and {len(warnings) - 1} sites more)" if len(warnings) > 1 else ""
        print(f"warning: little data for recipe {recipe.name}: {warnings[0]}{more}", file=sys.stderr)
    return warnings


def rounding_options(
    kind: str | None,
    bits: int | None,
    head_bits: int | None,
    damping: float | None,
    group_size: int | None,
    act_order: bool | None,
    clip: bool | None,
    descent_sweeps: int | None,
) -> dict[str, Any]:
    """The recipe's table `weights` that the flags amount to, without what was not given."""
    from quamba_export.calib.observers.observer import refuse_unknown
    from quamba_export.calib.rounding.kinds import ROUNDINGS

    refuse_unknown([kind] if kind else [], ROUNDINGS, "--rounding", ExitCode.USAGE)
    table: dict[str, Any] = {"kind": kind, "bits": bits, "head_bits": head_bits}
    table |= {"damping": damping, "group_size": group_size, "act_order": act_order, "clip": clip}
    table["descent_sweeps"] = descent_sweeps
    return {name: value for name, value in table.items() if value is not None}


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C leaves with exit 7: what was observed so far is kept beside the output."""
    try:
        yield
    except KeyboardInterrupt as error:
        fix = "run the same command with --resume"
        raise QuambaError("calibration was interrupted", fix=fix, code=ExitCode.INCOMPLETE) from error


def show(facts: dict[str, Any], console: Console) -> None:
    samples = f"{facts['samples']} samples of {facts['tokens_per_sample']} tokens"
    console.print(
        f"[bold]{facts['calibration']}[/] by recipe {facts['recipe']}, {samples} of {facts['data']}"
    )
    console.print(f"  `quamba-export inspect {facts['calibration']}` shows the scales")
