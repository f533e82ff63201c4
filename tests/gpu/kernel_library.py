"""libquamba_plugins.so through its C ABI: one case of tests/op_cases in, its outputs out, no TensorRT.

Or launchers compiled for the host (tests/plugins/test_host_launch.py), with "cpu" as the device.

Every tensor lies in a larger allocation that is poisoned around it, a row of a token inside a wider row; what
a kernel writes beside its outputs is found. States are updated in place, as an engine does it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import torch
from op_cases import Case
from op_cases.drawing import Array

from quamba_export.plugins.common.c_header import letters, strided
from quamba_export.plugins.common.contract import OpSpec, Tensor

DTYPES = {"int8": 0, "int32": 1, "float16": 2, "float32": 3}
GUARD = 256  # bytes of poison in front of and behind each tensor
POISON = 0xA5


def struct_type(spec: OpSpec) -> type[ctypes.Structure]:
    """The launcher's struct, as plugins/common/c_header.py writes it."""
    size = type(
        f"{spec.name}Size", (ctypes.Structure,), {"_fields_": [(x, ctypes.c_int64) for x in letters(spec)]}
    )
    fields: list[tuple[str, object]] = [("size", size)]
    fields += [(a.name, ctypes.c_float if a.type == "float" else ctypes.c_int32) for a in spec.attrs]
    fields += [(t.name, ctypes.c_void_p) for t in (*spec.inputs, *spec.outputs)]
    fields += [(f"{t.name}_stride", ctypes.c_int64) for t in spec.inputs if strided(t)]
    fields += [(f"{t.name}_dtype", ctypes.c_int32) for t in spec.inputs if len(t.allowed) > 1]
    return type(spec.name, (ctypes.Structure,), {"_fields_": fields})


class Guarded:
    """A device buffer of `values` between guards; rows of `row` elements lie `stride` elements apart."""

    def __init__(self, values: Array, stride: int = 0, shift: int = 0, device: str = "cuda") -> None:
        """shift: bytes past an aligned address."""
        self.dtype, self.shape = values.dtype, values.shape
        rows = values.reshape(values.shape[0] * values.shape[1], -1) if stride else values.reshape(1, -1)
        self.row, self.stride = rows.shape[1], stride or rows.shape[1]
        body = np.full((rows.shape[0], self.stride * values.itemsize), POISON, np.uint8)
        body[:, : self.row * values.itemsize] = (
            np.ascontiguousarray(rows).view(np.uint8).reshape(rows.shape[0], -1)
        )
        guard = np.full(GUARD, POISON, np.uint8)
        self.start = GUARD + shift
        host = np.concatenate([guard, guard[:shift], body.ravel(), guard])
        self.size = body.size
        self.buffer = torch.from_numpy(host).to(device)

    @property
    def pointer(self) -> int:
        return self.buffer.data_ptr() + self.start

    def read(self) -> Array:
        """The values; raises AssertionError where the poison around them was overwritten."""
        host = self.buffer.cpu().numpy()
        body = host[self.start : self.start + self.size].reshape(-1, self.stride * self.dtype.itemsize)
        used = self.row * self.dtype.itemsize
        for name, part in (
            ("in front", host[: self.start]),
            ("behind", host[self.start + self.size :]),
            ("between rows", body[:, used:]),
        ):
            assert (part == POISON).all(), f"written {name} of a tensor of shape {self.shape}"
        return np.ascontiguousarray(body[:, :used]).view(self.dtype).reshape(self.shape)


class Prepared:
    """One call with its buffers on the device; `launch` may be repeated and captured into a graph."""

    def __init__(
        self,
        library: ctypes.CDLL,
        case: Case,
        inputs: dict[str, Guarded],
        outputs: dict[str, Guarded],
        device: str = "cuda",
    ) -> None:
        self.case, self.inputs, self.outputs, self._device = case, inputs, outputs, device
        self._call = self._struct()
        self._launch = getattr(library, f"quamba_{case.op}_launch")
        refusal = getattr(library, f"quamba_{case.op}_refusal")
        refusal.restype = ctypes.c_char_p
        reason = refusal(ctypes.byref(self._call))
        assert reason is None, f"{case.op} refused: {reason}"
        workspace_bytes = getattr(library, f"quamba_{case.op}_workspace")
        workspace_bytes.restype = ctypes.c_size_t
        size = max(1, workspace_bytes(ctypes.byref(self._call)))
        self._workspace = torch.empty(size, dtype=torch.uint8, device=device)

    def launch(self) -> None:
        """On torch's current stream; raises AssertionError with the CUDA error's number."""
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream if self._device == "cuda" else None)
        status = self._launch(ctypes.byref(self._call), ctypes.c_void_p(self._workspace.data_ptr()), stream)
        assert status == 0, f"{self.case.op}: CUDA error {status} at launch"

    def _struct(self) -> ctypes.Structure:
        spec, arrays = self.case.spec, self.case.inputs
        dtypes, shapes = [str(a.dtype) for a in arrays.values()], [a.shape for a in arrays.values()]
        sizes = spec.bind(dtypes, shapes, self.case.attrs)
        call = struct_type(spec)()
        for letter in letters(spec):
            setattr(call.size, letter, int(sizes[letter]))
        for name, value in self.case.attrs.items():
            setattr(call, name, value)
        for name, guarded in (*self.inputs.items(), *self.outputs.items()):
            setattr(call, name, guarded.pointer)
        for tensor in spec.inputs:
            if strided(tensor):
                setattr(call, f"{tensor.name}_stride", self.inputs[tensor.name].stride)
            if len(tensor.allowed) > 1:
                setattr(call, f"{tensor.name}_dtype", DTYPES[str(arrays[tensor.name].dtype)])
        return call


class KernelLibrary:
    """The launchers of every op."""

    def __init__(self, path: Path, device: str = "cuda") -> None:
        self.loaded, self._device = ctypes.CDLL(str(path)), device

    def prepare(self, case: Case, *, wider: int = 0, shift: int = 0) -> Prepared:
        """wider: elements a token's row is followed by; shift: elements off alignment."""
        spec, arrays = case.spec, case.inputs
        dtypes, shapes = [str(a.dtype) for a in arrays.values()], [a.shape for a in arrays.values()]
        sizes = spec.bind(dtypes, shapes, case.attrs)
        inputs = {t.name: place(t, arrays[t.name], wider, shift, self._device) for t in spec.inputs}
        outputs = {}
        results = zip(spec.outputs, spec.output_shapes(sizes), spec.output_dtypes(dtypes), strict=True)
        for tensor, shape, dtype in results:
            fresh = np.full([int(n) for n in shape], 77, dtype)
            own = Guarded(fresh, device=self._device)
            outputs[tensor.name] = inputs[tensor.aliases] if tensor.aliases else own
        return Prepared(self.loaded, case, inputs, outputs, self._device)

    def run(self, case: Case, *, wider: int = 0, shift: int = 0) -> list[Array]:
        """Outputs of one launch. Raises AssertionError where it fails or writes beside its outputs."""
        prepared = self.prepare(case, wider=wider, shift=shift)
        prepared.launch()
        if self._device == "cuda":
            torch.cuda.synchronize()
        states = {t.aliases for t in case.spec.outputs}
        for name, values in case.inputs.items():
            if name not in states:
                found, given = prepared.inputs[name].read(), np.ascontiguousarray(values)
                assert np.array_equal(found.view(np.uint8), given.view(np.uint8)), f"{name} was overwritten"
        return [prepared.outputs[t.name].read() for t in case.spec.outputs]

    def argmax(self, logits: torch.Tensor, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """quamba_argmax of logits (B, V) fp32 on the device, maybe a view -> tokens (B,) int64."""
        (batch, vocabulary), stride = logits.shape, logits.stride(0) or logits.shape[1]
        if tokens is None:
            tokens = torch.full((batch,), -77, dtype=torch.int64, device="cuda")
        status = self.loaded.quamba_argmax(
            ctypes.c_void_p(logits.data_ptr()),
            *(ctypes.c_int64(size) for size in (batch, vocabulary, stride)),
            ctypes.c_void_p(tokens.data_ptr()),
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream),
        )
        assert status == 0, f"quamba_argmax: CUDA error {status}"
        return tokens


def place(tensor: Tensor, values: Array, wider: int, shift: int, device: str) -> Guarded:
    """On the device; only a row a token may be part of a wider one or off alignment."""
    values = np.ascontiguousarray(values)
    if not strided(tensor):
        return Guarded(values, device=device)
    row = int(np.prod(values.shape[2:]))
    return Guarded(values, row + wider, shift * values.itemsize, device)
