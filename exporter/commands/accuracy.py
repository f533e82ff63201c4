"""`quamba-export accuracy`: the table of all recipes and widths on several models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quamba_export.exporter.commands.sweep import resumable, tell_short_default
from quamba_export.exporter.console import emit, progress
from quamba_export.exporter.options import Device, Json, MaxTokens, Window

if TYPE_CHECKING:
    from rich.console import Console


def accuracy(
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="One or more checkpoints.")
    ],
    data: Annotated[
        list[str], typer.Option("--data", metavar="TEXT", help="To calibrate on. May be repeated.")
    ],
    score: Annotated[str, typer.Option("--score", metavar="TEXT", help="Another text, to score on.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The folder of results; a stopped run goes on there.")
    ],
    only: Annotated[
        list[str] | None, typer.Option(metavar="ROW", help="Just this row. May be repeated.")
    ] = None,
    calib_size: Annotated[int, typer.Option("--calib-size", min=1, help="Samples.")] = 128,
    calib_seqlen: Annotated[int, typer.Option("--calib-seqlen", min=1, help="Tokens a sample.")] = 512,
    window: Window = 1024,
    max_tokens: MaxTokens = None,
    cloze: Annotated[int | None, typer.Option(min=1, help="As in eval: last words of N passages.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; any number gives the same figures.")] = 1,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Baselines, Quamba and Quamba2 in every width: prefill and decode beside float, as in docs/accuracy.md.

    Example: quamba-export accuracy A/ B/ --data calibration.txt --score validation.txt -o accuracy/
    """
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.device import torch_device
    from quamba_export.calib.mixed_data import Source
    from quamba_export.exporter.studies.accuracy_table import (
        chosen_rows,
        model_folders,
        row_variants,
        table_of,
    )
    from quamba_export.exporter.studies.sweep import Study, run_sweep

    torch_device(device)
    configs = {checkpoint: load_checkpoint(checkpoint).config for checkpoint in checkpoints}
    folders, rows = model_folders(out, checkpoints), chosen_rows(only or [], configs)
    made = {
        checkpoint: row_variants(chosen, configs[checkpoint], calib_size, calib_seqlen)
        for checkpoint, chosen in rows.items()
    }
    for checkpoint, every in made.items():
        tell_short_default(every, configs[checkpoint], calib_size, calib_seqlen)
    sources, tables, found = tuple(Source(text) for text in data), [], {}
    with progress("accuracy", unit="steps") as bar, resumable():
        for checkpoint, chosen in rows.items():
            folder = folders[checkpoint]
            size = calib_size, calib_seqlen, score, window, max_tokens
            study = Study(checkpoint, sources, *size, ("prefill", "decode"), cloze, folder, None, device)
            scores = run_sweep(study, made[checkpoint], workers=workers, advance=lambda done: bar.advance(1))
            results = list(zip(chosen, scores, strict=True))
            found[folder.name] = {row.name: facts for row, facts in results}
            tables.append(f"### {folder.name}\n\n{table_of(results)}")
            (out / "accuracy.md").write_text("\n".join(tables))
    (out / "accuracy.json").write_text(json.dumps(found, indent=1) + "\n")
    emit({"models": found, "table": str(out / "accuracy.md")}, as_json, lambda console: show(tables, console))


def show(tables: list[str], console: Console) -> None:
    console.print("\n".join(tables), highlight=False, markup=False, soft_wrap=True)
