"""What each way of rounding projections costs on another text: perplexity and KL, one line a way.

    python -m quamba_export.calib.studies.rounding_study CHECKPOINT --data calibration.txt --score valid.txt \
        --rounding "" --rounding descent_sweeps=4

Activations stay float, so a line shows the weights alone, as W4A16 does, without a calibration's scales. The
weights are in recipe quamba's basis and rounded as `calibrate` rounds them (calib/rounding/sequential.py).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tomllib
import torch
import typer
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import Checkpoint, load_checkpoint
from quamba_export.calib.data import Tokens, calibration_windows
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.parts import rewritten_parts
from quamba_export.calib.model.rewrites import apply_rewrites
from quamba_export.calib.observation import Run
from quamba_export.calib.progress_file import ProgressFile
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.calib.rounding.gptq import Gptq
from quamba_export.calib.rounding.kinds import rounding_from_table
from quamba_export.calib.rounding.sequential import Errors, SequentialRounding
from quamba_export.calib.rounding.stored_weight import rounded_shapes
from quamba_export.calib.workers import Workers, one_thread
from quamba_export.plugins.common.int4 import group_sizes, unpack_int4
from quamba_export.runtime.errors import ExitCode, QuambaError

RECIPE = "quamba"


@dataclass
class Row:
    """A way of rounding; sums over scored tokens are in nats, float's beside its own."""

    name: str
    model: FloatMamba
    errors: Errors
    nats: float = 0.0
    float_nats: float = 0.0
    kl: float = 0.0
    tokens: int = 0


def gptq_options(text: str) -> Gptq:
    """GPTQ to 4 bits by options like "damping=0.1, descent_sweeps=4"; raises QuambaError for others."""
    lines = "\n".join(part for part in text.split(",") if part.strip())
    try:
        rounding = rounding_from_table({"kind": "gptq", **tomllib.loads(lines)}, "--rounding")
    except tomllib.TOMLDecodeError as error:
        allowed = '"", or options like damping=0.1,descent_sweeps=4'
        raise QuambaError("options that cannot be read", found=text, allowed=allowed) from error
    if not isinstance(rounding, Gptq) or rounding.bits != 4 or rounding.head_bits != 16:
        allowed = "gptq with 4 bits, without lm_head"
        raise QuambaError("the study has no such rounding", found=text, allowed=allowed, code=ExitCode.USAGE)
    return rounding


def rounded_model(checkpoint: Checkpoint, tokens: Tokens, rounding: Gptq) -> tuple[FloatMamba, Errors]:
    """The float model of RECIPE with its projections rounded on tokens (n, L)."""
    recipe, config = replace(load_recipe(RECIPE), weights=rounding), checkpoint.config
    with tempfile.TemporaryDirectory(prefix="quamba-rounding-") as folder, one_thread():
        scratch = Path(folder)
        file = ProgressFile.start(scratch, {}, resume=False)
        with Workers(1, scratch) as workers:
            run = Run(tokens, workers, file, None, len(tokens), config.n_layer)
            parts, grids = rewritten_parts(checkpoint, recipe, {}, {}), [recipe.grid(4)] * config.n_layer
            weights, errors = SequentialRounding(parts, rounding, grids, run).weights()
    model = FloatMamba.from_checkpoint(checkpoint)
    apply_rewrites(model, recipe, {}, {})
    for name in rounded_shapes(config):
        layer, _, projection = name.rpartition(".")
        model.tensors[f"backbone.{layer}.mixer.{projection}.weight"] = _dequantized(weights, name)
    return model, errors


def _dequantized(weights: Mapping[str, Tensor], name: str) -> Tensor:
    codes, scale = unpack_int4(weights[f"{name}.weight"]).float(), weights[f"{name}.weight_scale"].float()
    return codes * scale.repeat_interleave(torch.tensor(group_sizes(codes.shape[1])), dim=1)


@torch.inference_mode()
def score(reference: FloatMamba, rows: Sequence[Row], tokens: Tokens) -> None:
    """Add the windows (n, L) to every row, each window from an empty state."""
    for window in torch.from_numpy(tokens)[:, None]:
        exact, targets = reference(window)[0][:, :-1].log_softmax(-1), window[:, 1:, None]
        for row in rows:
            found = row.model(window)[0][:, :-1].log_softmax(-1)
            row.nats -= float(found.gather(-1, targets).double().sum())
            row.float_nats -= float(exact.gather(-1, targets).double().sum())
            row.kl += float((exact.exp() * (exact - found)).double().sum())
            row.tokens += targets.numel()


def table(rows: Sequence[Row]) -> str:
    lines = ["| rounding | perplexity | KL | error, in_proj | error, out_proj |", "| --- " * 5 + "|"]
    for row in rows:
        own, exact = (math.exp(nats / row.tokens) for nats in (row.nats, row.float_nats))
        errors = [
            sum(e["error"] for name, e in row.errors.items() if name.endswith(projection))
            / row.model.config.n_layer
            for projection in (".in_proj", ".out_proj")
        ]
        lost = " | ".join(f"{error:.5f}" for error in errors)
        lines.append(f"| {row.name} | {own:.4f} ({own / exact:.4f}) | {row.kl / row.tokens:.5f} | {lost} |")
    return "\n".join(lines)


def main(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint directory or hub id.")],
    data: Annotated[str, typer.Option(help="A .txt or .jsonl file to round on.")],
    score_text: Annotated[str, typer.Option("--score", help="Another one, to score on.")],
    rounding: Annotated[list[str], typer.Option(help='Options of GPTQ, "" for its defaults; a line each.')],
    calib_size: Annotated[int, typer.Option(help="Samples.")] = 64,
    calib_seqlen: Annotated[int, typer.Option(help="Tokens a sample, and a window that is scored.")] = 512,
    seed: Annotated[int | None, typer.Option(help="Draw the samples from the whole text.")] = None,
    windows: Annotated[int, typer.Option(help="Windows to score, the first of the text.")] = 8,
) -> None:
    """Round the projections to int4 in each way and score the models side by side."""
    source, ways = load_checkpoint(checkpoint), [gptq_options(text) for text in rounding]
    if source.tokenizer_path is None:
        allowed = "a tokenizer.json beside the weights"
        raise QuambaError(f"checkpoint {source.path} has no tokenizer", allowed=allowed)
    tokenizer, eos = source.tokenizer_path, source.eos_token_id
    tokens = calibration_windows(data, tokenizer, eos, count=calib_size, size=calib_seqlen, seed=seed)
    flags = "--windows", "--calib-seqlen"
    text = calibration_windows(score_text, tokenizer, eos, count=windows, size=calib_seqlen, flags=flags)
    rows = [
        Row(name or "gptq", *rounded_model(source, tokens, way))
        for name, way in zip(rounding, ways, strict=True)
    ]
    score(FloatMamba.from_checkpoint(source), rows, text)
    print(table(rows))


if __name__ == "__main__":
    typer.run(main)
