"""The device that PyTorch models run on: by name, checked, set up so that two runs give the same bits.

Bits are those of one device. A GPU adds in another order than a CPU and has other exponentials, so what is
computed there agrees with a CPU's to about 1e-5 of a value (docs/scales.md), and never in every bit.
"""

from __future__ import annotations

import re

import torch

from quamba_export.runtime.errors import ExitCode, QuambaError

CPU = torch.device("cpu")


def torch_device(name: str) -> torch.device:
    """`cpu`, `cuda` (the first GPU) or `cuda:N`.

    fp32 products on a GPU are fp32 from here on, not TF32, and convolutions take the same way every time.
    Raises QuambaError (exit 2) for another name, and for a GPU that torch does not find.
    """
    if name == "cpu":
        return CPU
    allowed = "cpu, cuda, cuda:N"
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise QuambaError("unknown --device", found=f"--device {name}", allowed=allowed, code=ExitCode.USAGE)
    number, count = int(name.partition(":")[2] or 0), torch.cuda.device_count()
    if number >= count:
        raise QuambaError(
            f"torch {torch.__version__} finds no such GPU",
            found=f"--device {name}, and {count} CUDA devices",
            allowed=", ".join(["cpu", *(f"cuda:{i}" for i in range(count))]),
            fix="run without --device" if count == 0 else "",
            code=ExitCode.USAGE,
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return torch.device("cuda", number)
