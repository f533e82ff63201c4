"""What a manifest says of TensorRT: a bundle's of its plans and their weights, an export's of its plugins."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quamba_export.runtime.fields import Fields
from quamba_export.runtime.folder_check import WEIGHTS

WEIGHT_ALIGNMENT = 256  # bytes, as TensorRT wants the address of a tensor
BYTES_OF_WEIGHT = {"int8": 1, "float16": 2, "int32": 4, "float32": 4}
MAX_SIZE = 1 << 24  # of a dimension, a batch or a call
MAX_DEVICE_BYTES = 1 << 50


@dataclass(frozen=True)
class WeightTensor:
    """A weight that both plans take as an input: its dtype, shape and place in weights.bin."""

    name: str
    dtype: str  # "int8", "int32", "float16" or "float32"
    shape: tuple[int, ...]
    offset: int  # of its first byte; a multiple of WEIGHT_ALIGNMENT

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.offset + math.prod(self.shape) * BYTES_OF_WEIGHT[self.dtype]


@dataclass(frozen=True)
class EngineRecord:
    """What the plans of a TensorRT bundle were built with and for."""

    tensorrt: str  # its version, as the Python module gives it
    version_compatible: bool  # whether later TensorRTs of its major version run the plans, the lean ones too
    sm: int  # compute capability of the GPU, 90 for 9.0
    contracts: str  # of the plugin library: `quamba_plugins_version()`
    max_batch: int
    prefill_length: int  # tokens of the longest call of the prefill plan
    weights: tuple[WeightTensor, ...]
    cuda: (
        str  # that the plugin library was compiled with, "13.0"; a driver of an earlier major does not run it
    )
    device_bytes: int  # of GPU memory: engines, weights, and states for max_batch; measured after the build


def parse_engine(fields: Fields, weight_bytes: int) -> EngineRecord:
    """weight_bytes: size of weights.bin."""
    record = EngineRecord(
        tensorrt=fields.text("tensorrt"),
        version_compatible=fields.boolean("version_compatible"),
        sm=fields.integer("sm", 50, 999),
        contracts=fields.text("contracts"),
        max_batch=fields.integer("max_batch", 1, MAX_SIZE),
        prefill_length=fields.integer("prefill_length", 1, MAX_SIZE),
        weights=parse_weights(fields, weight_bytes),
        cuda=fields.text("cuda"),
        device_bytes=fields.integer("device_bytes", 0, MAX_DEVICE_BYTES),
    )
    fields.end()
    return record


def parse_weights(fields: Fields, weight_bytes: int) -> tuple[WeightTensor, ...]:
    """The table of weights.bin: not empty, every name once, every tensor within the file."""
    weights = tuple(parse_weight(entry, weight_bytes) for entry in fields.objects("weights"))
    names = [weight.name for weight in weights]
    if not names or len(set(names)) != len(names):
        found = f"{len(names) - len(set(names))} names twice" if names else "none"
        raise fields.error("weights", found, "one weight or more, each once")
    return weights


def parse_weight(fields: Fields, weight_bytes: int) -> WeightTensor:
    weight = WeightTensor(
        name=fields.text("name"),
        dtype=fields.choice("dtype", tuple(BYTES_OF_WEIGHT)),
        shape=fields.integers("shape", 1, MAX_SIZE),
        offset=fields.integer("offset", 0, weight_bytes),
    )
    if weight.offset % WEIGHT_ALIGNMENT or weight.end > weight_bytes:
        found = f"bytes {weight.offset} to {weight.end}"
        allowed = f"a multiple of {WEIGHT_ALIGNMENT}, and an end within {WEIGHTS}, {weight_bytes} bytes"
        raise fields.error("offset", found, allowed)
    fields.end()
    return weight


@dataclass(frozen=True)
class PreparedRecord:
    """What the plugin library in an export was compiled for, on another machine."""

    target: str
    sm: int  # compute capability of the GPU, 87 for 8.7
    jetpack: int
    export: str  # digest of the export that it was made from


def parse_prepared(fields: Fields) -> PreparedRecord:
    record = PreparedRecord(
        target=fields.text("target"),
        sm=fields.integer("sm", 50, 999),
        jetpack=fields.integer("jetpack", 6, 7),
        export=fields.digest("export"),
    )
    fields.end()
    return record
