"""Runs one case on each implementation of an op, numpy in and numpy out; tells how far results lie apart."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from op_cases import Case
from op_cases.drawing import Array

from quamba_export.exporter.graph.onnx_backend import OnnxBackend, Value
from quamba_export.plugins.common.contract import Tensor
from quamba_export.plugins.common.int4 import pack_int4, unpack_int4
from quamba_export.plugins.common.registry import get_op
from quamba_export.runtime.vnni_probe import probe_int8_products

DYNAMIC = {"B": "batch", "L": "length"}
NONE, ALL = (getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{name}_ALL") for name in ("DISABLE", "ENABLE"))
# optimization level; whether to ask for exact products where there is no VNNI, as runtime/engine_ort.py does
SESSIONS = {"unoptimized": (NONE, True), "optimized": (ALL, True), "plain": (ALL, False)}


def run_reference(case: Case) -> list[Array]:
    """The op's torch op, which runs its reference behind the contract's checks."""
    inputs = [torch.from_numpy(array) for array in case.inputs.values()]
    outputs = get_op(case.op).torch_op(*inputs, **case.attrs)
    return [t.numpy() for t in (outputs if isinstance(outputs, tuple) else (outputs,))]


def onnx_model(case: Case, constants: bool = False) -> onnx.ModelProto:
    """A model of one node with its function, batch and length dynamic.

    All inputs of the op are inputs of the graph; with `constants`, those without a batch are initializers, as
    in an exported model, so that ONNX Runtime may fold and pack them.
    """
    backend = OnnxBackend({name: torch.from_numpy(array) for name, array in case.inputs.items()})
    values, graph_inputs = [], []
    for tensor, array in zip(case.spec.inputs, case.inputs.values(), strict=True):
        if constants and "B" not in tensor.dims:
            values.append(backend.weight(tensor.name))
            continue
        shape = [DYNAMIC.get(letter, size) for letter, size in zip(tensor.dims, array.shape, strict=True)]
        values.append(Value(tensor.name, str(array.dtype), tuple(shape)))
        graph_inputs.append(values[-1])
    outputs = backend.op(case.op, *values, **case.attrs)
    for tensor, value in zip(case.spec.outputs, outputs, strict=True):
        backend.rename(value, tensor.name)
    return backend.model_proto(graph_inputs, outputs, "tests")


def run_onnx(model: onnx.ModelProto, case: Case, kind: str) -> list[Array]:
    """ONNX Runtime on a model of `onnx_model`; kind: one of SESSIONS."""
    session = _session(model.SerializeToString(), kind)
    outputs: list[Array] = session.run(None, {i.name: case.inputs[i.name] for i in session.get_inputs()})
    return outputs


def session_kinds() -> list[str]:
    """Those that this host can be exact with: without VNNI a plain session saturates integer products."""
    return [kind for kind in SESSIONS if kind != "plain" or probe_int8_products().exact_by_default]


def _session(model: bytes, kind: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, exact = SESSIONS[kind]
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def assert_same(case: Case, expected: list[Array], found: list[Array]) -> None:
    """Integers equal; floats within one unit in the last place, and at most one in a thousand off at all.

    fp64 inside and one rounding make floats equal too, unless exp differs in fp64's last bit and the result
    lies that close to the middle between two floats. Where the contract states a bound, that one holds.
    """
    if case.spec.bound:
        assert_within_bound(case, expected, found)
        return
    for tensor, a, b in zip(case.spec.outputs, expected, found, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), tensor.name
        assert not np.isnan(a.astype(np.float64)).any(), f"{tensor.name}: expected values hold NaN"
        distance = ulps(np.ascontiguousarray(a), np.ascontiguousarray(b))
        allowed = 0 if a.dtype.kind == "i" else 1
        assert distance.max() <= allowed, f"{tensor.name}: {distance.max()} apart, allowed {allowed}"
        off = np.count_nonzero(distance)
        assert off <= max(1, a.size // 1000), f"{tensor.name}: {off} of {a.size} differ"


def assert_within_bound(case: Case, expected: list[Array], found: list[Array]) -> float:
    """The largest distance as a share of the bound; AssertionError above 1, or where a value is NaN."""
    magnitudes = run_reference(case.replace(**{t.name: _absolute(case, t) for t in case.spec.inputs}))
    largest = 0.0
    for tensor, a, b, magnitude in zip(case.spec.outputs, expected, found, magnitudes, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), tensor.name
        distance, allowed = np.abs(a.astype(np.float64) - b), case.spec.bound * magnitude.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(distance == 0, 0.0, distance / allowed)
        assert (shares <= 1).all(), f"{tensor.name}: up to {shares.max():.3g} bounds apart"
        largest = max(largest, float(shares.max()))
    return largest


def _absolute(case: Case, tensor: Tensor) -> Array:
    """Absolute values of an input, of packed codes too; the lowest code has none and becomes the highest."""
    array = case.inputs[tensor.name]
    if tensor.dims[-1].endswith("/2"):
        codes = unpack_int4(torch.from_numpy(np.ascontiguousarray(array)))
        return np.asarray(pack_int4(codes.abs().clamp(max=7)))
    return np.abs(np.maximum(array, -127) if array.dtype == np.int8 else array)


def ulps(a: Array, b: Array) -> NDArray[np.int64]:
    """Distance in units in the last place; both zeros are one, and codes count as integers."""
    if a.dtype == np.int8:
        return np.abs(a.astype(np.int64) - b.astype(np.int64))
    return np.abs(_ordered(a) - _ordered(b))


def _ordered(x: Array) -> NDArray[np.int64]:
    """Integers in the order of the floats, neighbours one apart; both zeros are 0."""
    bits = x.view(f"int{8 * x.itemsize}").astype(np.int64)
    lowest = -(1 << (8 * x.itemsize - 1))
    return np.where(bits < 0, lowest - bits, bits)
