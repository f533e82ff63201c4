"""How much GPU memory a TensorRT bundle will take: estimated before its build starts.

B batch, L length, H heads, P head dim, G groups, N d_state, V vocabulary (padded).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine_record import WeightTensor
from quamba_export.runtime.errors import ExitCode, QuambaError

TENSORRT_BYTES = 512 << 20  # buffers of the builder, two contexts, the code of the kernels
GIB = 1 << 30
CHUNK, STEPS_FROM = 64, 8  # tokens, as in plugins/QuantizedSSDScan/workspace.cuh
STEP_BYTES, CHUNK_BYTES = 8, 1792  # of a token and head; of a chunk and head
ALIGNMENT = 256


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of GPU memory by what takes them."""

    weights: int
    states: int
    activations: int
    tensorrt: int = TENSORRT_BYTES

    @property
    def total(self) -> int:
        return self.weights + self.states + self.activations + self.tensorrt

    def __str__(self) -> str:
        parts = ("weights", "states", "activations", "tensorrt")
        shares = ", ".join(f"{part} {getattr(self, part) / GIB:.2f}" for part in parts)
        return f"{self.total / GIB:.2f} GiB ({shares})"


def estimate_memory(
    model: onnx.ModelProto, weights: Sequence[WeightTensor], max_batch: int, prefill_length: int
) -> MemoryEstimate:
    """The sum of, with B = max_batch and L = prefill_length,

    - weights: weights.bin once, the other constants of the model once in each of the two plans;
    - states: B times every state, the ids of the longest call (int64) and the logits (B, 1, V) fp32;
    - activations: B x L tokens in the prefill plan and B in the decode plan, times what a token takes in all
      tensors of one layer. TensorRT gives the memory of a layer to the next one, and of most tensors to a
      later one of the same layer, so this is more than it takes. With them the workspace of the scan, which
      the layers share;
    - TENSORRT_BYTES.

    model: export/'s; its weights are not read.
    """
    graph, inputs = model.graph, {weight.name for weight in weights}
    constants = sum(_nbytes(t.data_type, t.dims) for t in graph.initializer if t.name not in inputs)
    states = sum(_value_bytes(value) for value in graph.input if value.name.startswith("past_"))
    (logits,) = (_value_bytes(value) for value in graph.output if value.name == "logits")
    return MemoryEstimate(
        weights=max(weight.end for weight in weights) + 2 * constants,
        states=max_batch * (states + 8 * prefill_length + logits),
        activations=max_batch * (prefill_length + 1) * token_bytes(model)
        + scan_workspace(model, max_batch, prefill_length),
    )


def token_bytes(model: onnx.ModelProto) -> int:
    """Bytes of one token in layer 0's tensors (B, L, ...), and in the residual stream before it."""
    sizes = {
        value.name: _value_bytes(value)
        for value in model.graph.value_info
        if value.name.startswith("layers.0.") and value.type.tensor_type.shape.dim[1].dim_param == "length"
    }
    return sum(sizes.values()) + sizes["layers.0.hidden"]


def scan_workspace(model: onnx.ModelProto, batch: int, length: int) -> int:
    """Bytes that Mamba-2's scan takes beside its tensors in a call of (B, L) tokens; Mamba-1's takes none."""
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.input)
    }
    sizes = [0]
    for node in model.graph.node:
        if node.op_type == "QuantizedSSDScan":
            (_, _, heads, width), (_, _, groups, states) = shapes[node.input[0]], shapes[node.input[3]]
            sizes.append(ssd_workspace(batch, length, heads, width, groups, states))
        elif node.op_type in ("DynamicStateSSDScan", "HalfSSDScan"):
            sizes.append(_steps_bytes(batch, length, shapes[node.input[0]][2]))
    return max(sizes)


def ssd_workspace(B: int, L: int, H: int, P: int, G: int, N: int) -> int:
    """Bytes of a QuantizedSSDScan's workspace, as its workspace.cuh parts it."""
    if L < CHUNK:
        return _steps_bytes(B, L, H)
    width = 64 if N <= 64 else 128 if N <= 128 else 256
    chunks = B * (L // CHUNK)
    channels = chunks * H * P
    parts = (B * L * H * STEP_BYTES, chunks * H * CHUNK_BYTES, channels * 4, channels * 2 * width)
    return sum(map(_aligned, (*parts, channels * CHUNK))) + chunks * G * width * CHUNK


def _steps_bytes(B: int, L: int, H: int) -> int:
    return B * L * H * STEP_BYTES if L >= STEPS_FROM else 0


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def check_memory(estimate: MemoryEstimate, cuda: Cuda) -> None:
    """Raise QuambaError (exit 6) where the GPU has less free than estimated."""
    free, total = cuda.memory()
    if estimate.total > free:
        raise QuambaError(
            "the engines would not fit into the GPU's memory",
            found=f"an estimate of {estimate}",
            allowed=f"{free / GIB:.2f} GiB, which are free of {total / GIB:.2f}",
            fix="a smaller --max-batch or --prefill-length, or end what else uses the GPU",
            code=ExitCode.OUT_OF_SPACE,
        )


def _value_bytes(value: onnx.ValueInfoProto) -> int:
    """Bytes where every open dimension (batch, length) is 1."""
    tensor = value.type.tensor_type
    return _nbytes(tensor.elem_type, [dim.dim_value or 1 for dim in tensor.shape.dim])


def _nbytes(element: int, dims: Sequence[int]) -> int:
    itemsize: int = helper.tensor_dtype_to_np_dtype(element).itemsize
    return itemsize * math.prod(dims)
