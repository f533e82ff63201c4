"""Checkpoint + text -> Calibration: run the float model, observe every site, choose every scale.

Up to five stages. `basis`, only for a recipe that smooths or has a KLT, finds factors or rotations.
`channels`, only for a recipe that reorders, finds how loud every channel of x is, and from that the
permutation. `scales` observes all sites of the rewritten model: the reorder changes what the Hadamard
transform in front of out_proj mixes, so that no scale could be chosen before it. `errors` looks at the first
samples once more, to report what each scale does to its values. `weights`, only for a rounding that looks at
inputs, rounds in_proj and out_proj layer by layer (calib/rounding/sequential.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quamba_export.calib.calibration import Calibration, write_calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.data import Tokens, data_digest
from quamba_export.calib.device import check_workers, torch_device
from quamba_export.calib.mixed_data import Source, mixed_windows, shares
from quamba_export.calib.model.basis import basis_samples, find_basis
from quamba_export.calib.model.head_groups import ChannelPermutation, sort_and_cluster
from quamba_export.calib.model.parts import ModelParts, rewritten_parts
from quamba_export.calib.model.rewrites import RewriteReport
from quamba_export.calib.observation import MICRO_BATCH, Progress, Run, Stage
from quamba_export.calib.observers.observer import Observer, SumOfMaxima, scales_from_limits
from quamba_export.calib.output_directory import check_replaceable
from quamba_export.calib.progress_file import ProgressFile, Totals, locked
from quamba_export.calib.ranks import Ranks, rank, workers_or_ranks
from quamba_export.calib.recipes.recipe import Recipe, default_recipe
from quamba_export.calib.rounding.sequential import SequentialRounding
from quamba_export.calib.sites import GroupRanges, scale_shape
from quamba_export.calib.studies.scale_error import ScaleError, error_report
from quamba_export.calib.workers import Workers, one_thread
from quamba_export.runtime.errors import QuambaError

REORDER_SAMPLES = (
    128  # samples, the first, that the permutation is found on: any order is exact, so time decides
)
ERROR_SAMPLES = 32  # samples, the first, that the errors of the scales are reported for


def calibrate(
    checkpoint: Checkpoint,
    data: str | Path | Sequence[Source],
    recipe: Recipe | None = None,
    *,
    calib_size: int = 512,
    calib_seqlen: int = 512,
    seed: int | None = None,
    workers: int = 1,
    out_dir: str | Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> Calibration:
    """Static scales of `checkpoint` from calib_size windows of calib_seqlen tokens of a text, or of several.

    data:     a file, a dataset's name, or several with their weights (calib/mixed_data.py).
    recipe:   default_recipe of the model where it is None.
    seed:     None takes the first windows of the text, a number draws them from all of it.
    workers:  processes, one thread each. Under torchrun its ranks take their place (calib/ranks.py): all
        return the same scales, rank 0 alone writes, and rounds weights.
    device:   where the model is observed and rounded (calib/device.py); a GPU has one worker.
    out_dir:  where the artefact is written; unfinished work lies beside it until then (partial_directory),
        and `resume` goes on from it.
    progress: called after every micro-batch.

    Raises QuambaError for text that is too short or cannot be read, a recipe that does not fit the model,
    weights that give values that are not finite, unfinished work of another run, an out_dir that holds
    something else or that another process is calibrating into.
    """
    place = torch_device(device)
    check_workers(workers, place)
    recipe = recipe or default_recipe(checkpoint.config)
    recipe.check_fits(checkpoint.config)
    recipe.check_groups(checkpoint.config)
    if rank() > 0:  # rank 0 keeps and writes everything
        out_dir, resume, progress = None, False, None
    if out_dir is not None:
        check_replaceable(Path(out_dir), "calibration")
    sources = [Source(data)] if isinstance(data, (str, Path)) else data
    tokens = _tokens(checkpoint, sources, calib_size, calib_seqlen, seed)
    identity = _identity(checkpoint, recipe, tokens, place)
    with _scratch(out_dir) as scratch, one_thread():
        file = ProgressFile.start(scratch, identity, resume=resume)
        with workers_or_ranks(workers, scratch) as pool:
            if isinstance(pool, Ranks):
                pool.check_same(identity)
                file.done, file.totals = pool.share((file.done, file.totals))
            run = Run(tokens, pool, file, progress, _samples(recipe, calib_size), checkpoint.config.n_layer)
            basis = find_basis(checkpoint, recipe, run, place)
            permutation, ranges = _reorder(checkpoint, recipe, run, place)
            parts = rewritten_parts(checkpoint, recipe, permutation, basis, place)
            observers = recipe.observers_of(checkpoint.config)
            totals = run.observe(Stage("scales", calib_size, observers, ranges), parts)
            scales, statistics = _scales(checkpoint, recipe, observers, totals)
            errors = {site: ScaleError(scale.flatten().numpy()) for site, scale in scales.items()}
            sums = run.observe(Stage("errors", min(calib_size, ERROR_SAMPLES), errors, ranges), parts)
            weights, rounding_errors = _weights(recipe, parts, run)
            rewrites = parts.reports()
        for site, statistic in statistics.items():
            statistic |= error_report(sums[site])
        calibration = Calibration(
            config=checkpoint.config,
            checkpoint_digest=checkpoint.digest,
            recipe=recipe,
            scales=scales,
            head_group_range={i: layer.head_ends for i, layer in ranges.items()},
            dim_group_range={i: layer.channel_ends for i, layer in ranges.items()},
            permutation=permutation,
            statistics=statistics,
            run=_run_record(sources, tokens, seed, recipe, rewrites)
            | _device_record(place)
            | rounding_errors,
            weights=weights,
            basis=basis,
        )
        if out_dir is not None:
            write_calibration(calibration, out_dir)
            file.remove()
    return calibration


def partial_directory(out_dir: str | Path) -> Path:
    """Where the unfinished work of a calibration into out_dir lies."""
    target = Path(out_dir).resolve()
    return target.with_name(target.name + ".partial")


def _tokens(
    checkpoint: Checkpoint, sources: Sequence[Source], count: int, size: int, seed: int | None
) -> Tokens:
    if checkpoint.tokenizer_path is None:
        raise QuambaError(
            f"checkpoint {checkpoint.path} has no tokenizer", allowed="a tokenizer.json beside the weights"
        )
    eos = checkpoint.eos_token_id
    tokens = mixed_windows(sources, checkpoint.tokenizer_path, eos, count=count, size=size, seed=seed)
    if tokens.max() >= checkpoint.config.vocab_size:
        raise QuambaError(
            "the tokenizer gives ids that the model has no embedding for",
            found=f"id {tokens.max()}",
            allowed=f"below {checkpoint.config.vocab_size}",
        )
    return tokens


def _identity(checkpoint: Checkpoint, recipe: Recipe, tokens: Tokens, device: torch.device) -> dict[str, str]:
    """What the statistics depend on, in the words of a refusal to resume."""
    return {
        "checkpoint": checkpoint.digest,
        "number of samples": str(tokens.shape[0]),
        "number of tokens a sample": str(tokens.shape[1]),
        "calibration text": data_digest(tokens),
        "recipe": json.dumps(recipe.as_table(), sort_keys=True),
        "micro-batch": str(MICRO_BATCH),
        "version of torch": torch.__version__,
        "unit of progress": "a sample through a layer",  # through the model, before there were layers
        **_device_record(device),
        **({} if device.type == "cpu" else {"model of GPU": torch.cuda.get_device_name(device)}),
    }


@contextmanager
def _scratch(out_dir: str | Path | None) -> Iterator[Path]:
    """The directory for unfinished work: kept on failure beside out_dir, temporary where there is none."""
    if out_dir is not None:
        with locked(partial_directory(out_dir)) as directory:
            yield directory
        return
    with tempfile.TemporaryDirectory(prefix="quamba-calibrate-") as directory:
        yield Path(directory)


def _samples(recipe: Recipe, calib_size: int) -> int:
    """Samples of all stages."""
    reorder = min(calib_size, REORDER_SAMPLES) if recipe.reorder else 0
    weights = calib_size if recipe.weights.uses_inputs else 0
    return basis_samples(recipe, calib_size) + reorder + calib_size + min(calib_size, ERROR_SAMPLES) + weights


def _reorder(
    checkpoint: Checkpoint, recipe: Recipe, run: Run, device: torch.device
) -> tuple[dict[int, ChannelPermutation], dict[int, GroupRanges]]:
    """Stage `channels`: permutation and runs by layer; both empty for a recipe without groups."""
    config, groups = checkpoint.config, recipe.groups(checkpoint.config)
    if groups is None:
        return {}, {}
    observers = {f"layers.{i}.x": SumOfMaxima() for i in range(config.n_layer)}
    samples = min(len(run.tokens), REORDER_SAMPLES)
    totals = run.observe(Stage("channels", samples, observers, {}), ModelParts(checkpoint, device))
    permutation, ranges = {}, {}
    for i in range(config.n_layer):
        loudness = totals[f"layers.{i}.x"]["absmax"].reshape(config.n_heads, config.headdim) / samples
        permutation[i], ranges[i] = sort_and_cluster(loudness, config.n_groups, *groups)
    return permutation, ranges


def _scales(
    checkpoint: Checkpoint, recipe: Recipe, observers: Mapping[str, Observer], totals: Totals
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Scale of every site, and what is reported of how it was chosen."""
    config, groups = checkpoint.config, recipe.groups(checkpoint.config)
    scales, statistics = {}, {}
    for site, observer in observers.items():
        values, dead = scales_from_limits(observer.limit(totals[site]))
        shape = scale_shape(config, site.split(".")[2], groups)
        scales[site] = torch.from_numpy(values).reshape(shape)
        statistics[site] = {
            "observer": observer.as_table(),
            "absmax": float(totals[site]["absmax"].max()),
            "scale": float(values.max()),
            "smallest_scale": float(values.min()),
            "scales": int(values.size),
            "dead_scales": dead,
        }
    return scales, statistics


def _weights(recipe: Recipe, parts: ModelParts, run: Run) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Stage `weights`: rounded weights, and what each lost; both empty for a rounding without inputs."""
    bits = recipe.rounded_bits(parts.config.n_layer)
    if bits is None or rank() > 0:
        return {}, {}
    if isinstance(run.workers, Ranks):  # a layer's samples lie in files of this host: rank 0 goes on alone
        run = replace(run, workers=Workers(1, run.workers.scratch))
    rounding = SequentialRounding(parts, recipe.weights, [recipe.grid(b) for b in bits], run)
    weights, errors = rounding.weights()
    return weights, {"rounding_errors": errors}


def _device_record(device: torch.device) -> dict[str, str]:
    """What is kept of a device: nothing of a CPU, as before there were others."""
    return {} if device.type == "cpu" else {"device": device.type}


def _run_record(
    sources: Sequence[Source],
    tokens: Tokens,
    seed: int | None,
    recipe: Recipe,
    rewrites: list[RewriteReport],
) -> dict[str, Any]:
    """What calibration.json tells about the run; nothing of machine, time or workers."""
    counts = shares(sources, len(tokens))
    mixture = [
        {"data": source.name, "weight": source.weight, "samples": samples}
        for source, samples in zip(sources, counts, strict=True)
    ]
    return {
        "data": " + ".join(source.name for source in sources),
        **({"mixture": mixture} if len(sources) > 1 else {}),
        "data_digest": data_digest(tokens),
        "samples": tokens.shape[0],
        "tokens_per_sample": tokens.shape[1],
        "seed": seed,
        "micro_batch": MICRO_BATCH,
        "reorder_samples": min(tokens.shape[0], REORDER_SAMPLES) if recipe.reorder else 0,
        "error_samples": min(tokens.shape[0], ERROR_SAMPLES),
        "rewrites": [asdict(report) for report in rewrites],
    }
