"""The calibration artefact: every scale of a model, and how it was found.

calibration/
    scales.safetensors  fp32 scale of every site; run ends and permutations of reordered layers
    weights.safetensors projections (calib/rounding/stored_weight.py), where rounding needs inputs
    basis.safetensors   what exact rewrites took from the text (calib/model/stored_basis.py), where they do
    calibration.json    schema version, checkpoint digest, recipe, data, statistics of every site, file table
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from quamba_export.calib.calibration_checks import (
    check_file_table,
    check_statistics,
    check_tensors,
    check_weights,
    config_from_json,
    config_to_json,
    read_description,
    read_tensors,
)
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.head_groups import ChannelPermutation
from quamba_export.calib.model.stored_basis import basis_specs, check_basis
from quamba_export.calib.output_directory import written_directory
from quamba_export.calib.recipes.recipe import Recipe, recipe_from_table
from quamba_export.calib.sites import GroupRanges

SCHEMA_VERSION = 1
SCALES, WEIGHTS, DESCRIPTION = "scales.safetensors", "weights.safetensors", "calibration.json"
BASIS = "basis.safetensors"


@dataclass(frozen=True, eq=False)
class Calibration:
    """Static scales of one checkpoint by one recipe.

    scales:           site -> fp32 scale: () per tensor; (G,), (G, a, b), (G, a, b, N) per group.
    head_group_range: layer -> (G, a) int32, dim_group_range: layer -> (G, a, b) int32: exclusive ends of the
        runs of heads and of channels that share a scale, counted inside the group and inside the head.
    permutation:      layer -> the reorder that made those runs. All three are empty without groups.
    statistics:       site -> observer, absmax, scale, ... (calib/calibrate.py), clipped share and error
        (calib/studies/scale_error.py; only clipped_share in artefacts made before there was more).
    weights:          rounded projections by the names of calib/rounding/stored_weight.py, or none.
    basis:            by the names of calib/model/stored_basis.py, or none.
    run:              data digest, samples, tokens a sample, seed, micro-batch, sizes around the rewrites.
    """

    config: MambaConfig
    checkpoint_digest: str
    recipe: Recipe
    scales: dict[str, Tensor]
    head_group_range: dict[int, Tensor] = field(default_factory=dict)
    dim_group_range: dict[int, Tensor] = field(default_factory=dict)
    permutation: dict[int, ChannelPermutation] = field(default_factory=dict)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    basis: dict[str, Tensor] = field(default_factory=dict)

    def ranges(self, layer: int) -> GroupRanges | None:
        """Runs of heads and channels of `layer`; None where its scales are per tensor."""
        if layer not in self.head_group_range:
            return None
        return GroupRanges(self.head_group_range[layer], self.dim_group_range[layer])

    @property
    def digest(self) -> str:
        """sha256 hex of calibration.json, which holds the sha256 of the other files."""
        return hashlib.sha256(_files(self)[DESCRIPTION]).hexdigest()


def write_calibration(calibration: Calibration, path: str | Path) -> None:
    """Write the artefact directory in one step: `path` never holds half of one. An older one is replaced.

    Raises QuambaError where `path` holds something else (exit 2), and for scales that reading would refuse.
    """
    target = Path(path)
    check_tensors(_tensors(calibration), calibration.config, calibration.recipe, str(target))
    check_weights(calibration.weights, calibration.config, calibration.recipe, str(target))
    check_basis(calibration.basis, calibration.config, calibration.recipe, str(target))
    with written_directory(target, "calibration") as directory:
        for name, content in _files(calibration).items():
            (directory / name).write_bytes(content)


def read_calibration(path: str | Path) -> Calibration:
    """Read and check an artefact directory.

    Raises QuambaError naming the file, key or tensor: an older schema, a missing or foreign site, a wrong
    dtype or shape, a scale that is not finite and > 0, impossible run ends or permutations, a changed file
    (exit 4).
    """
    directory = Path(path)
    description = read_description(directory / DESCRIPTION, SCHEMA_VERSION)
    config = config_from_json(description["config"], directory / DESCRIPTION)
    recipe = recipe_from_table(description["recipe"])
    recipe.check_fits(config)
    files = description["files"]
    names = [SCALES, *([WEIGHTS] if recipe.weights.uses_inputs else [])]
    names += [BASIS] if basis_specs(config, recipe) else []
    check_file_table(files, names, directory / DESCRIPTION)
    tensors = read_tensors(directory / SCALES, files[SCALES])
    check_tensors(tensors, config, recipe, str(directory / SCALES))
    weights = read_tensors(directory / WEIGHTS, files[WEIGHTS]) if WEIGHTS in files else {}
    check_weights(weights, config, recipe, str(directory / WEIGHTS))
    basis = read_tensors(directory / BASIS, files[BASIS]) if BASIS in files else {}
    check_basis(basis, config, recipe, str(directory / BASIS))
    check_statistics(description["statistics"], config, directory / DESCRIPTION)
    layers = range(config.n_layer if recipe.groups(config) else 0)
    return Calibration(
        config=config,
        checkpoint_digest=description["checkpoint_digest"],
        recipe=recipe,
        scales={name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()},
        head_group_range={i: tensors[f"layers.{i}.head_group_range"] for i in layers},
        dim_group_range={i: tensors[f"layers.{i}.dim_group_range"] for i in layers},
        permutation={
            i: ChannelPermutation(
                tensors[f"layers.{i}.permutation.heads"], tensors[f"layers.{i}.permutation.channels"]
            )
            for i in layers
        },
        statistics=description["statistics"],
        run=description["run"],
        weights=weights,
        basis=basis,
    )


def _tensors(calibration: Calibration) -> dict[str, Tensor]:
    tensors = dict(calibration.scales)
    for i, ends in calibration.head_group_range.items():
        tensors[f"layers.{i}.head_group_range"] = ends
        tensors[f"layers.{i}.dim_group_range"] = calibration.dim_group_range[i]
    for i, permutation in calibration.permutation.items():
        tensors[f"layers.{i}.permutation.heads"] = permutation.heads
        tensors[f"layers.{i}.permutation.channels"] = permutation.channels
    return tensors


def _files(calibration: Calibration) -> dict[str, bytes]:
    """File name -> content; the same calibration gives the same bytes."""
    optional = {WEIGHTS: calibration.weights, BASIS: calibration.basis}
    contents = {SCALES: _tensors(calibration)} | {name: part for name, part in optional.items() if part}
    files = {
        file: safetensors.torch.save({name: t.contiguous() for name, t in sorted(tensors.items())})
        for file, tensors in contents.items()
    }
    description = {
        "schema_version": SCHEMA_VERSION,
        "kind": "calibration",
        "checkpoint_digest": calibration.checkpoint_digest,
        "config": config_to_json(calibration.config),
        "recipe": calibration.recipe.as_table(),
        "run": calibration.run,
        "statistics": calibration.statistics,
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
            for name, content in files.items()
        },
    }
    text = json.dumps(description, indent=1, allow_nan=False) + "\n"
    return files | {DESCRIPTION: text.encode()}
