"""`quamba-export sweep`: many variants of a recipe, calibrated and scored; one table, one plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quamba_export.exporter.console import emit, progress
from quamba_export.exporter.options import Device, Json, MaxTokens, TaskLimit, TaskNames, TaskPath, Window
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.calib.config import MambaConfig
    from quamba_export.exporter.evaluation.evaluate import Mode
    from quamba_export.exporter.studies.variants import Variant

PRESET = "ssm-input"


def sweep(
    what: Annotated[
        list[str],
        typer.Argument(metavar="[ssm-input] CHECKPOINT", help="A checkpoint; before it, what to vary."),
    ],
    data: Annotated[
        list[str], typer.Option("--data", metavar="TEXT", help="To calibrate on. May be repeated.")
    ],
    score: Annotated[str, typer.Option("--score", metavar="TEXT", help="Another text, to score on.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The folder of results; a stopped sweep goes on there.")
    ],
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", metavar="FIELD=VALUES", help="alpha=0.999,1.0 for example. May be repeated."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="What the fields change. Default: by the kind of model.")
    ] = None,
    calib_size: Annotated[int, typer.Option("--calib-size", min=1, help="Samples.")] = 128,
    calib_seqlen: Annotated[int, typer.Option("--calib-seqlen", min=1, help="Tokens a sample.")] = 512,
    mode: Annotated[Literal["prefill", "decode", "both"], typer.Option(help="How to score.")] = "prefill",
    window: Window = 1024,
    max_tokens: MaxTokens = None,
    cloze: Annotated[int | None, typer.Option(min=1, help="As in eval: last words of N passages.")] = None,
    tasks: TaskNames = None,
    task_path: TaskPath = None,
    task_limit: TaskLimit = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; any number gives the same figures.")] = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Calibrate and score every combination of --vary; `sweep ssm-input`: every mode of the scan's input.

    Example: quamba-export sweep CHECKPOINT --data a.txt --score b.txt --vary alpha=0.999,1.0 -o sweep/
    """
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.device import torch_device
    from quamba_export.calib.mixed_data import Source
    from quamba_export.calib.recipes.recipe import default_recipe, load_recipe
    from quamba_export.exporter.evaluation.task_scores import check_known, chosen_tasks
    from quamba_export.exporter.studies.sweep import Study, run_sweep
    from quamba_export.exporter.studies.sweep_table import sweep_rows
    from quamba_export.exporter.studies.variants import parse_vary, scan_input_variants, variants

    torch_device(device)
    checkpoint = checkpoint_of(what, vary)
    asked = chosen_tasks(tasks, task_path, task_limit)
    if asked:
        check_known(asked)
    chosen = parse_vary(vary or [])
    config = load_checkpoint(checkpoint).config
    base = load_recipe(recipe) if recipe else default_recipe(config)
    every = variants(chosen, base, config, calib_size, calib_seqlen)
    if what[0] == PRESET:
        every = scan_input_variants(every, config)
    tell_short_default(every, config, calib_size, calib_seqlen)
    modes: tuple[Mode, ...] = ("prefill", "decode") if mode == "both" else (mode,)
    sources = tuple(Source(text) for text in data)
    size = calib_size, calib_seqlen, score, window, max_tokens
    study = Study(checkpoint, sources, *size, modes, cloze, out, asked, device)
    with progress(f"sweep {checkpoint}", unit="steps") as bar, resumable():
        scores = run_sweep(study, every, workers=workers, advance=lambda done: bar.advance(1))
    facts: dict[str, Any] = {
        "checkpoint": checkpoint,
        "recipe": base.name,
        "data": data,
        "score": score,
        "calib_size": calib_size,
        "calib_seqlen": calib_seqlen,
        "window": window,
        "max_tokens": max_tokens,
        **({"tasks": list(asked.names), "task_limit": asked.limit} if asked else {}),
        "variants": [{"values": v.values, "scores": s} for v, s in zip(every, scores, strict=True)],
    }
    fields = list(every[0].values)
    heads, rows = sweep_rows(fields, facts["variants"], study_columns="ssm-input" in fields)
    write(out, facts, heads, rows)
    emit(facts | {"page": str(out / "sweep.html")}, as_json, lambda console: show(out, heads, rows, console))


def tell_short_default(every: Sequence[Variant], config: MambaConfig, size: int, seqlen: int) -> None:
    """Warn once of data too short for the model's default recipe: no other variant was let through."""
    from quamba_export.exporter.commands.calibrate import tell_shortages

    for variant in every:
        if tell_shortages(variant.recipe, config, size, seqlen):
            return


def checkpoint_of(what: list[str], vary: list[str] | None) -> str:
    """The checkpoint of the arguments. Raises QuambaError (exit 2) for more, or for nothing to vary."""
    preset = what[0] == PRESET
    if len(what) != 1 + preset:
        allowed = f"CHECKPOINT, or {PRESET} CHECKPOINT"
        raise QuambaError(
            "sweep takes one checkpoint", found=" ".join(what), allowed=allowed, code=ExitCode.USAGE
        )
    if not vary and not preset:
        fix = f"add --vary FIELD=VALUES, or sweep {PRESET}"
        raise QuambaError("a sweep of nothing", found="no --vary", fix=fix, code=ExitCode.USAGE)
    return what[-1]


@contextmanager
def resumable() -> Iterator[None]:
    """Ctrl-C leaves with exit 7: what is done lies in the folder of results."""
    try:
        yield
    except KeyboardInterrupt as error:
        fix = "run the same command again: it goes on"
        raise QuambaError("the sweep was interrupted", fix=fix, code=ExitCode.INCOMPLETE) from error


def write(out: Path, facts: dict[str, Any], heads: list[str], rows: list[list[str]]) -> None:
    from quamba_export.exporter.studies.sweep_table import markdown, write_sweep_page

    (out / "sweep.json").write_text(json.dumps(facts, indent=1) + "\n")
    (out / "sweep.md").write_text(markdown(heads, rows))
    write_sweep_page(facts, heads, rows, out / "sweep.html")


def show(out: Path, heads: list[str], rows: list[list[str]], console: Console) -> None:
    from rich.table import Column, Table

    columns = [Column(head, overflow="fold") for head in heads]  # a narrow terminal cuts nothing off
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)
    console.print(f"[bold]{out / 'sweep.html'}[/] has the plot")
