"""The likeliest token of every sequence, chosen on the GPU by the plugin library's quamba_argmax.

B batch, V vocabulary (padded).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.errors import ExitCode, QuambaError

# Queues a choice. Address of logits (B, V) fp32, B, V, address of tokens (B,) int64, both on the device. A
# token is -1 - index where the largest logit is not finite.
Argmax = Callable[[int, int, int, int], None]


def argmax_of(functions: ctypes.CDLL, cuda: Cuda) -> Argmax:
    """quamba_argmax on the stream of `cuda`; a capture takes it up. functions: the plugin library's."""
    function = functions.quamba_argmax
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    function.argtypes, function.restype = [pointer, size, size, size, pointer, pointer], ctypes.c_int

    def queue(logits: int, batch: int, vocab_size: int, tokens: int) -> None:
        status = function(logits, batch, vocab_size, vocab_size, tokens, cuda.stream)
        if status != 0:
            raise QuambaError(
                "CUDA: quamba_argmax failed",
                found=f"cudaError_t {status}",
                allowed="cudaSuccess",
                fix="see the driver: nvidia-smi",
                code=ExitCode.INCOMPATIBLE,
            )

    return queue
