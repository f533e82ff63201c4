"""A calibration layer by layer: the whole model's bits, and a layer's memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_calibrations import random_basis, random_reorders
from random_checkpoints import MAMBA1, MAMBA2_GROUPS, random_checkpoint, random_tensors, write_hugging_face
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quamba_export.calib.calibrate import calibrate
from quamba_export.calib.checkpoints.checkpoint import Checkpoint, load_checkpoint
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.parts import ModelParts, rewritten_parts
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.rewrites import apply_rewrites
from quamba_export.calib.observation import MICRO_BATCH, Run, Stage
from quamba_export.calib.progress_file import ProgressFile
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.calib.workers import Workers, one_thread

CONFIGS = {"mamba1": MAMBA1, "mamba2": MAMBA2_GROUPS}


REWRITES = [(kind, name) for kind in CONFIGS for name in ("quamba", "klt", "smoothquant")]


@pytest.mark.parametrize(("kind", "name"), [*REWRITES, ("mamba2", "quamba2")])
def test_parts_are_rewritten_as_the_whole_model_is(kind: str, name: str) -> None:
    config, recipe = CONFIGS[kind], load_recipe(name)
    checkpoint, basis = random_checkpoint(config), random_basis(config, recipe)
    permutation = {i: order for i, (order, _) in random_reorders(config, recipe).items()}
    whole = FloatMamba.from_checkpoint(checkpoint)
    reports = apply_rewrites(whole, recipe, permutation, basis)
    parts = rewritten_parts(checkpoint, recipe, permutation, basis)
    found = dict(parts.ends().tensors)
    for i in range(config.n_layer):
        found |= parts.layer(i).tensors
    assert found.keys() == whole.tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.tensors.items())
    assert parts.reports() == reports


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    "name", ["quamba", "quamba-1b"]
)  # x and the state by percentiles, the rest by maxima
def test_layer_by_layer_finds_the_bits_of_the_whole_model(kind: str, name: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(CONFIGS[kind])
    observers = load_recipe(name).observers_of(checkpoint.config)
    tokens = np.random.default_rng(0).integers(0, 64, (MICRO_BATCH + 2, 40))
    stage, model = Stage("scales", len(tokens), observers, {}), FloatMamba.from_checkpoint(checkpoint)
    totals: dict[str, Any] = {}
    with one_thread(), torch.inference_mode():
        for batch in (tokens[:MICRO_BATCH], tokens[MICRO_BATCH:]):
            samples: list[dict[str, Any]] = [{} for _ in batch]
            model(torch.from_numpy(batch), observe=stage.observer(samples))
            for sample in samples:
                for site, found in sample.items():
                    totals[site] = observers[site].combine(totals[site], found) if site in totals else found
        file = ProgressFile.start(tmp_path, {}, resume=False)
        with Workers(1, tmp_path) as pool:
            run = Run(tokens, pool, file, None, len(tokens), checkpoint.config.n_layer)
            by_layer = run.observe(stage, ModelParts(checkpoint))
    assert by_layer.keys() == totals.keys()
    for site, statistic in totals.items():
        assert all(np.array_equal(by_layer[site][key], value) for key, value in statistic.items())


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that operations made and somebody still holds, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@contextmanager
def most_bytes() -> Iterator[LiveBytes]:
    gc.collect()
    with LiveBytes() as counted:
        yield counted


def deep_checkpoint(folder: Path, kind: str, layers: int, text: Path) -> Checkpoint:
    config = replace(CONFIGS[kind], n_layer=layers)
    directory = write_hugging_face(folder / f"{kind}{layers}", config, random_tensors(config))
    (directory / "tokenizer.json").write_bytes((text / "tokenizer.json").read_bytes())
    return load_checkpoint(directory)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_memory_does_not_grow_with_the_layers(kind: str, rounding: str, folder: Path, tmp_path: Path) -> None:
    most = {}
    for layers in (2, 8):
        checkpoint = deep_checkpoint(tmp_path, kind, layers, folder)
        recipe = load_recipe("quamba").rounded_by({"kind": rounding})
        with most_bytes() as counted:
            calibrate(checkpoint, folder / "text.txt", recipe, calib_size=2, calib_seqlen=8)
        most[layers] = counted.most
    added = most[8] - most[2]
    layer = sum(tensor.numel() * 4 for tensor in ModelParts(checkpoint).layer(0).tensors.values())
    results = 6 * layer // 4 if rounding == "gptq" else 0  # codes and scales of six layers more
    assert added <= results + layer // 4, f"{added} bytes more for six layers of {layer}"


@pytest.mark.parametrize("kind", CONFIGS)
def test_quantizing_holds_the_codes_and_one_layer(kind: str, folder: Path, tmp_path: Path) -> None:
    most, stored = {}, {}
    for layers in (2, 8):
        checkpoint = deep_checkpoint(tmp_path, kind, layers, folder)
        with most_bytes() as counted:
            model = quantize_model(checkpoint, None, "w8a16")
        most[layers] = counted.most
        stored[layers] = sum(tensor.nbytes for tensor in model.tensors.values())
    layer = sum(tensor.numel() * 4 for tensor in ModelParts(checkpoint).layer(0).tensors.values())
    added = most[8] - most[2] - (stored[8] - stored[2])
    assert added <= layer // 4, f"{added} bytes more than six layers' codes, of {layer} a layer in fp32"
