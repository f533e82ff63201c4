"""libquamba_plugins.so through its C ABI: one case of tests/op_cases in, its outputs out, no TensorRT.

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

    def __init__(self, values: Array, stride: int = 0, shift: int = 0) -> None:
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
        self.buffer = torch.from_numpy(host).cuda()

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


class KernelLibrary:
    """The launchers of every op."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))

    def run(self, case: Case, *, wider: int = 0, shift: int = 0) -> list[Array]:
        """Outputs of one launch. wider: elements a token's row is followed by; shift: bytes off alignment.

        Raises AssertionError where the launch fails or writes beside its outputs.
        """
        spec = case.spec
        sizes = spec.bind(
            [str(a.dtype) for a in case.inputs.values()], [a.shape for a in case.inputs.values()], case.attrs
        )
        call = struct_type(spec)()
        for letter in letters(spec):
            setattr(call.size, letter, int(sizes[letter]))
        for name, value in case.attrs.items():
            setattr(call, name, value)
        inputs = {t.name: self._input(t, case.inputs[t.name], wider, shift) for t in spec.inputs}
        outputs = {}
        for tensor, shape, dtype in zip(
            spec.outputs,
            spec.output_shapes(sizes),
            spec.output_dtypes([str(a.dtype) for a in case.inputs.values()]),
            strict=True,
        ):
            fresh = np.full([int(n) for n in shape], 77, dtype)
            outputs[tensor.name] = inputs[tensor.aliases] if tensor.aliases else Guarded(fresh, shift=0)
        for name, guarded in (*inputs.items(), *outputs.items()):
            setattr(call, name, guarded.pointer)
        for tensor in spec.inputs:
            if strided(tensor):
                setattr(call, f"{tensor.name}_stride", inputs[tensor.name].stride)
            if len(tensor.allowed) > 1:
                setattr(call, f"{tensor.name}_dtype", DTYPES[str(case.inputs[tensor.name].dtype)])
        self._launch(spec.name, call)
        for tensor in spec.inputs:
            if tensor.name not in {t.aliases for t in spec.outputs}:
                same = np.array_equal(
                    inputs[tensor.name].read().view(np.uint8),
                    np.ascontiguousarray(case.inputs[tensor.name]).view(np.uint8),
                )
                assert same, f"input {tensor.name} was overwritten"
        return [outputs[t.name].read() for t in spec.outputs]

    def _input(self, tensor: Tensor, values: Array, wider: int, shift: int) -> Guarded:
        if not strided(tensor):
            return Guarded(np.ascontiguousarray(values))
        row = int(np.prod(values.shape[2:]))
        return Guarded(np.ascontiguousarray(values), row + wider, shift * values.itemsize)

    def _launch(self, name: str, call: ctypes.Structure) -> None:
        refusal = getattr(self._library, f"quamba_{name}_refusal")
        refusal.restype = ctypes.c_char_p
        reason = refusal(ctypes.byref(call))
        assert reason is None, f"{name} refused: {reason}"
        workspace_bytes = getattr(self._library, f"quamba_{name}_workspace")
        workspace_bytes.restype = ctypes.c_size_t
        workspace = torch.empty(max(1, workspace_bytes(ctypes.byref(call))), dtype=torch.uint8, device="cuda")
        launch = getattr(self._library, f"quamba_{name}_launch")
        stream = torch.cuda.current_stream().cuda_stream
        status = launch(ctypes.byref(call), ctypes.c_void_p(workspace.data_ptr()), ctypes.c_void_p(stream))
        assert status == 0, f"{name}: CUDA error {status} at launch"
        torch.cuda.synchronize()
