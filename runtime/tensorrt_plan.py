"""One TensorRT plan: deserialized, bound to tensors, queued on the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine_record import WeightTensor
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.tensorrt_library import import_tensorrt, logger


class Plan:
    """One deserialized engine with its execution context."""

    def __init__(self, path: Path, cuda: Cuda) -> None:
        """Raises QuambaError (exit 5) where TensorRT refuses the file."""
        trt, (log, messages) = import_tensorrt(), logger()
        messages.take_errors()
        self._path, self._cuda, self._messages = path, cuda, messages
        self._runtime = trt.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        self._context: Any = None if self._engine is None else self._engine.create_execution_context()
        if self._context is None:
            raise QuambaError(
                f"TensorRT {trt.__version__} does not load {path}",
                found=messages.take_errors() or "no reason given",
                allowed="a plan built by this TensorRT for this GPU",
                fix="build the bundle on this machine: `quamba-export build`",
                code=ExitCode.INCOMPATIBLE,
            )

    def bind_weights(self, table: Sequence[WeightTensor], addresses: Mapping[str, int]) -> None:
        """Set the address of every weight, once for all calls.

        Raises QuambaError (exit 4) for a weight that is not an input of this dtype and shape.
        """
        nptype = import_tensorrt().nptype
        for weight in table:
            shape = tuple(self._engine.get_tensor_shape(weight.name))
            dtype = np.dtype(nptype(self._engine.get_tensor_dtype(weight.name))).name
            if (dtype, shape) != (weight.dtype, weight.shape):
                raise QuambaError(
                    f"weight '{weight.name}' does not fit {self._path}",
                    found=f"{weight.dtype} {weight.shape}",
                    allowed=f"{dtype} {shape}",
                    fix="build the bundle anew: `quamba-export build`",
                    code=ExitCode.INTEGRITY,
                )
        self.bind({}, addresses)

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
