"""The device that PyTorch models run on: by name, checked, set up so that two runs give the same bits.

Bits are those of one device. A GPU adds in another order than a CPU and has other exponentials: what it finds
is what a CPU finds but for last bits (tests/gpu/test_device.py has the bounds).
"""

from __future__ import annotations

import os
import re

import torch
from torch.distributed import is_torchelastic_launched

from quamba_export.runtime.errors import ExitCode, QuambaError

CPU = torch.device("cpu")


def torch_device(name: str) -> torch.device:
    """`cpu`, `cuda:N`, or `cuda`: the first GPU, under torchrun that of the rank's number on its host.

    fp32 products on a GPU are fp32 from here on, not TF32, and convolutions take the same way every time.
    Raises QuambaError (exit 2) for another name, a GPU that torch does not find, and one for several ranks.
    """
    if name == "cpu":
        return CPU
    allowed = "cpu, cuda, cuda:N"
    if not re.fullmatch(r"cuda(:\d+)?", name):
        raise QuambaError("unknown --device", found=f"--device {name}", allowed=allowed, code=ExitCode.USAGE)
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_torchelastic_launched() else 1
    if name != "cuda" and ranks > 1:
        raise QuambaError(
            "one GPU for all ranks of a host",
            found=f"--device {name}, and {ranks} ranks here",
            allowed="--device cuda: every rank takes the GPU of its number",
            code=ExitCode.USAGE,
        )
    own = os.environ["LOCAL_RANK"] if is_torchelastic_launched() else "0"
    number, count = int(name.partition(":")[2] or own), torch.cuda.device_count()
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


def check_workers(workers: int, device: torch.device) -> None:
    """Refuse (exit 2) several processes for one GPU: they would hold the weights several times."""
    if workers > 1 and device.type != "cpu":
        raise QuambaError(
            "a GPU is fed by one process",
            found=f"--workers {workers} --device {device}",
            allowed="--workers 1; under torchrun a rank for each GPU",
            code=ExitCode.USAGE,
        )
