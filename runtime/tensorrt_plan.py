"""One TensorRT plan: deserialized, bound to tensors, queued on the stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.held_files import shown
from quamba_export.runtime.tensorrt_library import import_tensorrt, logger

Signature = tuple[str, tuple[int, ...]]  # dtype and shape of a tensor, -1 for an open dimension


class Plan:
    """One deserialized engine with its execution context."""

    def __init__(self, path: Path, cuda: Cuda, *, version_compatible: bool = False) -> None:
        """A version-compatible plan holds its builder's lean runtime, host code that a later TensorRT runs.

        Raises QuambaError (exit 5) where TensorRT refuses the file.
        """
        trt, (log, messages) = import_tensorrt(), logger()
        messages.take_errors()
        self._name, self._cuda, self._messages = shown(path), cuda, messages
        self._runtime = trt.Runtime(log)
        self._runtime.engine_host_code_allowed = version_compatible
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            raise QuambaError(
                f"TensorRT {trt.__version__} does not load {self._name}",
                found=messages.take_errors() or "no reason given",
                allowed="a plan built by this TensorRT for this GPU",
                fix="build the bundle on this machine: `quamba-export build`",
                code=ExitCode.INCOMPATIBLE,
            )

    def check(self, tensors: Mapping[str, Signature]) -> None:
        """Compare inputs and outputs with those that a manifest names; a dimension of -1 fits any.

        TensorRT is given addresses, no sizes: it would write beyond memory that is allocated for another
        dtype or shape. Raises QuambaError (exit 4) naming the first tensor that is missing or does not fit.
        """
        nptype, engine = import_tensorrt().nptype, self._engine
        found: dict[str, Signature] = {}
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            dtype = np.dtype(nptype(engine.get_tensor_dtype(name))).name
            found[name] = dtype, tuple(engine.get_tensor_shape(name))
        for name in (*tensors, *found):
            if not fits(tensors.get(name), found.get(name)):
                raise QuambaError(
                    f"'{name}' of the manifest does not fit {self._name}",
                    found=in_words(tensors.get(name)),
                    allowed=in_words(found.get(name)),
                    fix="build the bundle anew: `quamba-export build`",
                    code=ExitCode.INTEGRITY,
                )

    def check_calls(self, batch: int, length: int) -> None:
        """Raise QuambaError (exit 4) where the plan does not take `batch` sequences of `length` tokens."""
        _, _, (most, longest) = self._engine.get_tensor_profile_shape("input_ids", 0)
        if batch > most or length > longest:
            raise QuambaError(
                f"the manifest's max_batch or prefill_length does not fit {self._name}",
                found=f"{batch} sequences of {length} tokens",
                allowed=f"up to {most} of {longest}, which the plan was built for",
                fix="build the bundle anew: `quamba-export build`",
                code=ExitCode.INTEGRITY,
            )

    def bind(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        """Set the shapes of inputs and the addresses of inputs and outputs."""
        accepted = [self._context.set_input_shape(name, shape) for name, shape in shapes.items()]
        accepted += [self._context.set_tensor_address(name, address) for name, address in addresses.items()]
        if not all(accepted):
            raise self._failure("TensorRT refuses the tensors of this call")

    def queue(self) -> None:
        """Put one execution on the stream."""
        if not self._context.execute_async_v3(self._cuda.stream):
            raise self._failure("TensorRT could not run the plan")

    def _failure(self, what: str) -> QuambaError:
        return QuambaError(what, found=self._messages.take_errors() or "no reason given", code=ExitCode.BUG)


def fits(one: Signature | None, other: Signature | None) -> bool:
    if one is None or other is None or one[0] != other[0] or len(one[1]) != len(other[1]):
        return False
    return all(a == b or -1 in (a, b) for a, b in zip(one[1], other[1], strict=True))


def in_words(signature: Signature | None) -> str:
    if signature is None:
        return "no such tensor"
    return f"{signature[0]} {signature[1]}".replace("-1", "any")
