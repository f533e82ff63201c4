"""`quamba-export search`: widths by block under a budget of size or of latency."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit, progress
from quamba_export.exporter.options import Data, Device, EmbeddingBits, Json, LmHeadBits
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.calib.config import MambaConfig
    from quamba_export.exporter.studies.search import Budget


def search(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint directory or hub id.")],
    calibration: Annotated[Path, typer.Option(help="The calibration/ directory made from it.")],
    data: Data,
    out: Annotated[Path, typer.Option("-o", "--out", help="The recipe to write, a .toml file.")],
    budget_size: Annotated[
        float | None, typer.Option(metavar="MB", help="Most that the weights may take, in 10^6 bytes.")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option(metavar="MS", help="Most that a token may take, as predicted for --target."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="With --budget-ms: a device of `targets list`.")] = None,
    choices: Annotated[
        str, typer.Option(help="Widths that a block may have: of w8a8, w4a8, w4a16, w8a16.")
    ] = "w8a8,w4a8,w4a16",
    embedding_bits: EmbeddingBits = None,
    lm_head_bits: LmHeadBits = None,
    window: Annotated[int, typer.Option(min=2, help="Tokens a window of the text.")] = 512,
    max_tokens: Annotated[int, typer.Option(min=2, help="Score on the first N tokens of the text.")] = 2048,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Narrow the blocks that four bits hurt least until a budget is met, and write the widths as a recipe.

    The same command again goes on from the scores that it kept beside the recipe. The recipe is for
    `calibrate --recipe`, and then `export --qformat w4ax`.

    Example: quamba-export search CHECKPOINT --calibration cal/ --data TEXT --budget-size 25 -o mixed.toml
    """
    from quamba_export.calib.calibration import read_calibration
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.data import data_digest, token_stream
    from quamba_export.calib.device import torch_device
    from quamba_export.calib.recipes.as_toml import recipe_toml
    from quamba_export.exporter.evaluation.evaluate import check_length
    from quamba_export.exporter.evaluation.language_models import require_tokenizer
    from quamba_export.exporter.studies.search import KeptScores, check_budget, recipe_with
    from quamba_export.exporter.studies.search import search as search_widths
    from quamba_export.exporter.studies.search_models import KlScore, MixedModels
    from quamba_export.runtime.output_path import check_outside

    if out.suffix != ".toml":
        raise QuambaError("a recipe is a .toml file", found=f"-o {out}", code=ExitCode.USAGE)
    check_outside(out)
    place = torch_device(device)
    source, scales = load_checkpoint(checkpoint), read_calibration(calibration)
    n_layer, names = source.config.n_layer, [name.strip() for name in choices.split(",")]
    budget, ends = chosen_budget(source.config, budget_size, budget_ms, target, embedding_bits, lm_head_bits)
    check_budget(n_layer, names, budget)
    tokenizer = require_tokenizer(source.tokenizer_path, checkpoint)
    stream = token_stream(data, tokenizer, source.eos_token_id, limit=max_tokens)
    check_length(stream)
    models = MixedModels(source, scales, names, ends, place)
    question = {
        "checkpoint": source.digest,
        "calibration": scales.digest,
        "data": data_digest(stream[None]),
        "window": str(window),
        "ends": f"{ends[0]}, {ends[1]}",
        "version": version("quamba-export"),
        **({} if place.type == "cpu" else {"device": place.type}),
    }
    with progress(f"search {checkpoint}", None, "models") as bar:
        score = KlScore(source, models, stream, window, lambda: bar.advance(1))
        kept = KeptScores(out.with_suffix(".scores.jsonl"), question, score)
        found = search_widths(n_layer, names, budget, kept)
    story = f"{found.cost:.6g} {budget.unit} of {budget.most:g}, KL {found.kl:.5f} nats a token"
    chosen = replace(recipe_with(scales.recipe, found.widths), name=out.stem)
    out.write_text(recipe_toml(chosen, f"Widths by block, found by `quamba-export search`: {story}."))
    facts = {"recipe": str(out), "unit": budget.unit, "budget": budget.most, **asdict(found)}
    emit(facts | {"scored": kept.computed}, as_json, lambda console: show(facts, console))


def chosen_budget(
    config: MambaConfig,
    size: float | None,
    ms: float | None,
    target: str | None,
    embedding_bits: int | None,
    head_bits: int | None,
) -> tuple[Budget, tuple[int, int]]:
    """The budget that the flags give, and the bits of embedding and head. Raises QuambaError (exit 2)."""
    from quamba_export.calib.model.qformat import MIXED, qformat_named
    from quamba_export.exporter.studies.search_models import latency_budget, size_budget
    from quamba_export.targets.target import load_target

    widths = qformat_named(MIXED, embedding_bits=embedding_bits, head_bits=head_bits)
    ends = widths.embedding_bits, widths.head_bits
    if (size is None) == (ms is None) or (ms is None) != (target is None):
        flags = {"--budget-size": size, "--budget-ms": ms, "--target": target}
        raise QuambaError(
            "a search needs one budget",
            found=", ".join(flag for flag, value in flags.items() if value is not None) or "none",
            allowed="--budget-size MB, or --budget-ms MS with --target",
            code=ExitCode.USAGE,
        )
    if size is not None:
        return size_budget(config, ends, size), ends
    return latency_budget(config, ends, load_target(str(target)), float(ms or 0)), ends


def show(facts: dict[str, Any], console: Console) -> None:
    console.print(f"[bold]{facts['recipe']}[/]: {facts['cost']:.6g} {facts['unit']} of {facts['budget']:g}")
    counts = {name: facts["widths"].count(name) for name in sorted(set(facts["widths"]))}
    console.print("  blocks   " + ", ".join(f"{count} in {name}" for name, count in counts.items()))
    console.print(
        f"  KL       {facts['kl']:.6f} nats a token; {facts['widest_kl']:.6f} at {facts['widest']:.6g}"
    )
