"""Weights rounded layer by layer, each on what the layers before it, rounded already, give it.

For each layer: the Hessian of in_proj from the residual stream, in_proj rounded; the mixer run with it, the
Hessian of out_proj from its output, out_proj rounded; the residual stream moved on. Activations are those of
the float model. All samples go through a layer before any enters the next, and wait in files, so memory
holds a micro-batch and a layer whatever the number of samples. Only mixers run in the workers; Hessians are
summed in the order of the samples, so the number of workers changes no bit.

x_proj, dt_proj and the convolution stay as they are: the published method rounds them to the nearest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from quamba_export.calib.data import Tokens
from quamba_export.calib.model.float_model import MIXERS, FloatMamba
from quamba_export.calib.model.layer import Layer, rms_norm
from quamba_export.calib.model.parts import ModelParts
from quamba_export.calib.model.rewrites import FINAL_NORM, HEAD
from quamba_export.calib.model.tables import in_pieces
from quamba_export.calib.observation import Run, layer_states, micro_batches
from quamba_export.calib.rounding.hessian import Hessian
from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.stored_weight import stored
from quamba_export.calib.rounding.way import Rounding, output_error
from quamba_export.calib.rounding.weight_grid import BITS, WeightGrid, grid_of
from quamba_export.calib.sample_file import SampleFile

STAGE = "weights"

Errors = dict[str, dict[str, float]]


@dataclass(frozen=True)
class MixerPass:
    """One layer's mixer but for its out_proj, from file to file; as `work` of a worker, a micro-batch."""

    index: int
    source: SampleFile  # residual stream (n, L, D)
    target: SampleFile  # out_proj's input (n, L, E)

    def __call__(self, model: FloatMamba, samples: Tokens) -> None:
        """samples (k,): consecutive numbers of calibration samples."""
        first, count, seen = int(samples[0]), len(samples), dict[str, Tensor]()
        layer = Layer(model.config, self.index, model.tensors, model.out_hadamard, seen.__setitem__)
        conv, ssm = layer_states(model, count)
        with torch.inference_mode():
            norm_out = _norm_out(model, self.index, self.source.read(first, count, model.device))
            MIXERS[model.config.kind](layer, norm_out, conv, ssm)
        self.target.write(first, seen[f"layers.{self.index}.out_proj_in"])


class SequentialRounding:
    """Rounds in_proj and out_proj of every layer of a model, and lm_head behind them where the rounding has
    bits for it. grids: one a layer. One layer at a time is in memory.

    Progress is kept beside run.file: a layer's rounded weights are written when the residual stream behind
    it is whole on the disk, and a resumed run goes on behind the last of them.
    """

    def __init__(self, parts: ModelParts, rounding: Rounding, grids: Sequence[WeightGrid], run: Run) -> None:
        self.parts, self.rounding, self.grids, self.run = parts, rounding, grids, run
        length, config = run.tokens.shape[1], parts.config
        folder = run.file.directory
        self._stream = run.stream(config.d_model)
        self._out_proj_in = SampleFile(folder / "out_proj_in.bin", length, config.d_inner)
        self._layers = [folder / f"weights{i}.safetensors" for i in range(config.n_layer)]

    def weights(self) -> tuple[dict[str, Tensor], Errors]:
        """Codes and scales of every projection as calib/rounding/stored_weight.py stores them, and of each
        projection the share of its output's energy that is lost, beside that of round-to-nearest.
        """
        done = sum(path.exists() for path in self._layers) if STAGE in self.run.file.done else 0
        if not done:
            self._start()
        for i in range(done, len(self._layers)):
            tensors, errors = self._round_layer(i)
            self._stream[(i + 1) % 2].to_disk()
            _write_layer(self._layers[i], tensors, errors)
            self.run.advance(STAGE, len(self.run.tokens) * (i + 1))
        layers = [_read_layer(path) for path in self._layers]
        if self.rounding.head_bits in BITS:
            layers.append(self._round_head())
        return {k: v for tensors, _ in layers for k, v in tensors.items()}, {
            k: v for _, errors in layers for k, v in errors.items()
        }

    def _start(self) -> None:
        """No layer is rounded, and the residual stream is the embedding of the tokens."""
        for path in self._layers:
            path.unlink(missing_ok=True)
        self._out_proj_in.create(len(self.run.tokens))
        self.run.embed(len(self.run.tokens), self.parts, self._stream)

    def _round_layer(self, i: int) -> tuple[dict[str, Tensor], Errors]:
        source, target = self._stream[i % 2], self._stream[(i + 1) % 2]
        part, tensors, errors = self.parts.layer(i), dict[str, Tensor](), Errors()
        inputs: Callable[[Tensor], Tensor] = lambda x: _norm_out(part, i, x)  # noqa: E731
        self._round(part, f"layers.{i}.in_proj", source, inputs, tensors, errors)
        for _ in self.run.workers.run(
            MixerPass(i, source, self._out_proj_in), _mixer(part, i), self._batches()
        ):
            pass
        self._round(part, f"layers.{i}.out_proj", self._out_proj_in, lambda y: y, tensors, errors)
        layer = Layer(part.config, i, part.tensors, part.out_hadamard, None)
        weight, bias = layer.weight("mixer.out_proj.weight"), layer.optional("mixer.out_proj.bias")
        for samples in self._batches():
            first, count = int(samples[0]), len(samples)
            added = F.linear(self._out_proj_in.read(first, count, part.device), weight, bias)
            target.write(first, source.read(first, count, part.device) + added)
        return tensors, errors

    def _round(
        self,
        part: FloatMamba,
        name: str,
        file: SampleFile,
        inputs: Callable[[Tensor], Tensor],
        tensors: dict[str, Tensor],
        errors: Errors,
    ) -> None:
        """Round the projection `name`, whose inputs are `inputs` of the file's samples, in `part` too."""
        layer, _, projection = name.rpartition(".")
        parameter = f"backbone.{layer}.mixer.{projection}.weight"
        exact, grid = part.tensors[parameter], self.grids[int(layer.split(".")[1])]
        matrix = self._hessian(name, exact.shape[1], file, inputs)
        rounded = self.rounding.round(exact, grid, matrix, name)
        part.tensors[parameter] = rounded.dequantize()
        codes, scale = stored(rounded, grid.bits, name)
        tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"] = codes.cpu(), scale.cpu()
        nearest = Nearest().round(exact, grid).dequantize()
        errors[name] = {
            "error": output_error(exact, part.tensors[parameter], matrix),
            "nearest_error": output_error(exact, nearest, matrix),
        }

    def _round_head(self) -> tuple[dict[str, Tensor], Errors]:
        """lm_head on what the rounded layers give it; its rows are rounded a piece at a time."""
        model, bits, stream = self.parts.ends(), self.rounding.head_bits, self._stream[len(self._layers) % 2]
        norm, epsilon = model.tensors[FINAL_NORM].to(self.parts.device), model.config.norm_epsilon
        exact = model.tensors[HEAD].to(self.parts.device)
        matrix = self._hessian("lm_head", exact.shape[1], stream, lambda x: rms_norm(x, norm, epsilon))
        grid = grid_of(bits, group=self.rounding.group_size)
        rounded = in_pieces(exact, lambda rows: self.rounding.round(rows, grid, matrix, "lm_head"))
        weight, scale = stored(rounded, bits, "lm_head")
        nearest = Nearest().round(exact, grid).dequantize()
        errors = {
            "error": output_error(exact, rounded.dequantize(), matrix),
            "nearest_error": output_error(exact, nearest, matrix),
        }
        return {"lm_head.weight": weight.cpu(), "lm_head.weight_scale": scale.cpu()}, {"lm_head": errors}

    def _hessian(
        self, name: str, columns: int, file: SampleFile, inputs: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Of `inputs` of the file's samples."""
        hessian = Hessian(columns, self.parts.device)
        for samples in self._batches():
            hessian.add(inputs(file.read(int(samples[0]), len(samples), self.parts.device)))
        return hessian.matrix(name)

    def _batches(self) -> list[Tokens]:
        return micro_batches(len(self.run.tokens))


def _mixer(part: FloatMamba, i: int) -> FloatMamba:
    """A layer with one row of its out_proj: nobody looks at its output."""
    tensors, name = dict(part.tensors), f"backbone.layers.{i}.mixer.out_proj"
    tensors.pop(f"{name}.bias", None)
    tensors[f"{name}.weight"] = tensors[f"{name}.weight"][:1]
    return replace(part, tensors=tensors)


def _norm_out(model: FloatMamba, i: int, residual: Tensor) -> Tensor:
    """in_proj's input: (n, L, D) -> (n, L, D)."""
    return rms_norm(residual, model.tensors[f"backbone.layers.{i}.norm.weight"], model.config.norm_epsilon)


def _write_layer(path: Path, tensors: dict[str, Tensor], errors: Errors) -> None:
    """In one step: a kill leaves the whole file or none."""
    staging = path.with_suffix(".tmp")
    with staging.open("wb") as file:
        file.write(safetensors.torch.save(tensors, metadata={"errors": json.dumps(errors)}))
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


def _read_layer(path: Path) -> tuple[dict[str, Tensor], Errors]:
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["errors"])
