"""What a calibration on disk must be; each function here refuses what breaks one rule."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.json_fields import JsonFields
from quamba_export.calib.observers.observer import refuse_unknown
from quamba_export.calib.output_directory import kind_of
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.calib.rounding.stored_weight import head_specs, stored_specs
from quamba_export.calib.sites import SITES, scale_shape, site_names
from quamba_export.plugins.common.quantization import SMALLEST_SCALE
from quamba_export.runtime.errors import ExitCode, QuambaError

FIX = "run `quamba-export calibrate` on this checkpoint"
MOST_BYTES = {"calibration.json": 64 << 20, "scales.safetensors": 1 << 30, "weights.safetensors": 32 << 30}
MOST_BYTES |= {"basis.safetensors": 1 << 30}
MOST_LAYERS, MOST_SIZE = 4096, 1 << 24
KEYS: dict[str, type] = {
    **{"schema_version": int, "kind": str, "checkpoint_digest": str, "config": dict},
    **{"recipe": dict, "run": dict, "statistics": dict, "files": dict},
}

_SIZES = (
    "d_model",
    "n_layer",
    "vocab_size",
    "d_inner",
    "d_state",
    "d_conv",
    "dt_rank",
    "headdim",
    "n_groups",
)

Spec = tuple[tuple[int, ...], torch.dtype]


def read_description(path: Path, schema_version: int) -> dict[str, Any]:
    """calibration.json as a table whose keys and their types are right."""
    try:
        table = json.loads(read_limited(path), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise QuambaError(f"{path} is not JSON", found=str(error), fix=FIX) from error
    if not isinstance(table, dict) or table.get("kind") != "calibration":
        kind = repr(table.get("kind")) if isinstance(table, dict) else type(table).__name__
        raise QuambaError(f"{path} is no calibration", found=kind, allowed="kind 'calibration'", fix=FIX)
    if table.get("schema_version") != schema_version:
        raise QuambaError(
            f"{path} has another schema version",
            found=repr(table.get("schema_version")),
            allowed=str(schema_version),
            fix="make it anew with `quamba-export calibrate`",
        )
    refuse_unknown(table, KEYS, f"key in {path}")
    for key, expected in KEYS.items():
        if not isinstance(table.get(key), expected):
            found = repr(table.get(key))[:200]
            raise QuambaError(f"{path}: '{key}' is missing or no {expected.__name__}", found=found, fix=FIX)
    if not re.fullmatch("[0-9a-f]{64}", table["checkpoint_digest"]):
        found = table["checkpoint_digest"][:80]
        raise QuambaError(f"{path}: 'checkpoint_digest' is no sha256", found=found, fix=FIX)
    return table


def config_to_json(config: MambaConfig) -> dict[str, Any]:
    """The config as strict JSON: a step limit without an upper end as transformers writes it."""
    low, high = config.time_step_limit
    end = high if math.isfinite(high) else {"__float__": "Infinity"}
    return {**asdict(config), "time_step_limit": [low, end]}


def config_from_json(table: dict[str, Any], path: Path) -> MambaConfig:
    """The config of calibration.json, every key there and in its range."""
    names = [field.name for field in fields(MambaConfig)]
    refuse_unknown(table, names, f"config key in {path}")
    source = JsonFields(path, table, "config.")
    mamba2 = source.choice("kind", tuple(SITES)) == "mamba2"
    least = {**dict.fromkeys(_SIZES, 1), "dt_rank": 0 if mamba2 else 1}
    least |= {} if mamba2 else {"headdim": 0, "n_groups": 0}
    values: dict[str, Any] = {
        name: source.integer(name, low, MOST_LAYERS if name == "n_layer" else MOST_SIZE)
        for name, low in least.items()
    }
    values |= {name: source.boolean(name) for name in ("tie_embeddings", "conv_bias", "proj_bias")}
    values["norm_epsilon"] = source.number("norm_epsilon", 0, 1)
    values["time_step_limit"] = source.interval("time_step_limit", (0.0, math.inf))
    config = MambaConfig(kind="mamba2" if mamba2 else "mamba1", **values)
    if mamba2 and (config.d_inner % config.headdim or config.n_heads % config.n_groups or not config.n_heads):
        raise source.refusal("headdim", "d_inner in whole heads, n_heads in whole groups")
    return config


def check_statistics(statistics: Mapping[str, Any], config: MambaConfig, path: Path) -> None:
    """Statistics are there for every site, or for none."""
    refuse_unknown(statistics, site_names(config), f"site of 'statistics' in {path}")
    missing = [site for site in site_names(config) if not isinstance(statistics.get(site), dict)]
    if statistics and missing:
        raise QuambaError(f"{path}: 'statistics' has no table '{missing[0]}'", fix=FIX)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def check_file_table(files: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    """Refuse a table, read from `path`, that does not describe the files `names` and no others."""
    well_formed = all(
        isinstance(entry, dict)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("size"), int)
        for entry in files.values()
    )
    if sorted(files) != sorted(names) or not well_formed:
        raise QuambaError(
            f"{path}: 'files' does not describe {', '.join(names)}",
            found=repr(dict(files))[:200],
            allowed='{"sha256": ..., "size": ...} for each',
            fix=FIX,
        )


def read_tensors(path: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a file, if it is the one that calibration.json was written with."""
    content = read_limited(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if (sha256, len(content)) != (entry["sha256"], entry["size"]):
        raise QuambaError(
            f"{path} is not the file that calibration.json describes",
            found=f"{len(content)} bytes, sha256 {sha256[:12]}",
            allowed=f"{entry['size']} bytes, sha256 {entry['sha256'][:12]}",
            fix=FIX,
            code=ExitCode.INTEGRITY,
        )
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise QuambaError(f"{path} is not a safetensors file", found=str(error), fix=FIX) from error


def read_limited(path: Path) -> bytes:
    """Content of a file of the artefact, refused where it is missing or absurdly large."""
    if not path.is_file():
        folder, kind = path.parent, kind_of(path.parent)
        found = f"no such file in {folder}" if folder.is_dir() else f"no directory {folder}"
        if kind not in (None, "calibration"):
            found = f"{folder} is {'an' if kind == 'export' else 'a'} {kind}"
        raise QuambaError(f"{path} is missing", found=found, fix=FIX)
    size, most = path.stat().st_size, MOST_BYTES[path.name]
    if size > most:
        raise QuambaError(f"{path} is too large", found=f"{size} bytes", allowed=f"at most {most}", fix=FIX)
    return path.read_bytes()


def check_tensors(tensors: Mapping[str, Tensor], config: MambaConfig, recipe: Recipe, where: str) -> None:
    """Refuse missing, foreign, misshapen or meaningless tensors; `where` names the file."""
    check_specs(tensors, expected_tensors(config, recipe), config, recipe, where)
    for name, tensor in tensors.items():
        _check_values(tensor, name, config, where)


def check_weights(weights: Mapping[str, Tensor], config: MambaConfig, recipe: Recipe, where: str) -> None:
    """Refuse rounded weights that the recipe does not lead to, or that are meaningless."""
    bits = recipe.rounded_bits(config.n_layer)
    expected = {} if bits is None else stored_specs(config, bits) | head_specs(config, recipe.weights)
    check_specs(weights, expected, config, recipe, where)
    for name, tensor in weights.items():
        large = tensor.float().abs() >= SMALLEST_SCALE  # of either sign: int4 scales may be negative
        if tensor.is_floating_point() and not bool((tensor.isfinite() & large).all()):
            raise QuambaError(
                f"{where}: '{name}' has impossible values",
                found=_extremes(tensor),
                allowed="finite, not 0, and at least 2^-67 away from it",
                fix=FIX,
            )


def check_specs(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Spec],
    config: MambaConfig,
    recipe: Recipe,
    where: str,
) -> None:
    """Refuse missing and foreign tensors, wrong shapes and dtypes; `where` names the file."""
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise QuambaError(
            f"{where} has no tensor '{missing[0]}'",
            found=f"{len(expected) - len(missing)} of {len(expected)} tensors",
            allowed=f"all of a {config.kind} model with {config.n_layer} layers, recipe {recipe.name}",
            fix=FIX,
        )
    refuse_unknown(tensors, expected, f"tensor in {where}")
    for name, (shape, dtype) in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise QuambaError(
                f"{where}: '{name}' has a wrong shape or dtype",
                found=f"{tuple(tensor.shape)} {tensor.dtype}",
                allowed=f"{shape} {dtype}",
                fix=FIX,
            )


def expected_tensors(config: MambaConfig, recipe: Recipe) -> dict[str, Spec]:
    """Name -> shape and dtype of every tensor that the calibration of this model by this recipe has."""
    groups = recipe.groups(config)
    expected: dict[str, Spec] = {
        name: (scale_shape(config, name.rpartition(".")[2], groups), torch.float32)
        for name in site_names(config)
    }
    for i in range(config.n_layer if groups else 0):
        shape = (config.n_groups, *(groups or ()))
        expected[f"layers.{i}.head_group_range"] = (shape[:2], torch.int32)
        expected[f"layers.{i}.dim_group_range"] = (shape, torch.int32)
        expected[f"layers.{i}.permutation.heads"] = ((config.n_heads,), torch.int64)
        expected[f"layers.{i}.permutation.channels"] = ((config.n_heads, config.headdim), torch.int64)
    return expected


def _check_values(tensor: Tensor, name: str, config: MambaConfig, where: str) -> None:
    heads = config.n_heads // max(config.n_groups, 1)  # in a group of B and C
    kind = name.rpartition(".")[2]
    if tensor.is_floating_point():
        right = bool((tensor.isfinite() & (tensor >= SMALLEST_SCALE)).all())
        allowed = "finite and > 0 everywhere, at least 2^-67"
    elif kind in ("head_group_range", "dim_group_range"):
        last = heads if kind == "head_group_range" else config.headdim
        steps = torch.diff(tensor, dim=-1, prepend=torch.zeros_like(tensor[..., :1]))
        right = bool((steps > 0).all() and (tensor[..., -1] == last).all())
        allowed = f"rising ends, the last one {last}"
    elif kind == "heads":
        group = torch.arange(config.n_heads) // heads
        right = bool(
            (tensor.sort().values == torch.arange(config.n_heads)).all() and (tensor // heads == group).all()
        )
        allowed = f"a permutation of {config.n_heads} heads inside their groups of {heads}"
    else:
        right = bool((tensor.sort(dim=-1).values == torch.arange(config.headdim)).all())
        allowed = f"a permutation of {config.headdim} channels for each head"
    if not right:
        raise QuambaError(
            f"{where}: '{name}' has impossible values", found=_extremes(tensor), allowed=allowed, fix=FIX
        )


def _extremes(tensor: Tensor) -> str:
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        return f"{int((~tensor.isfinite()).sum())} values that are not finite"
    return f"values from {tensor.min().item()} to {tensor.max().item()}"
