"""Work for tests of calib/workers.py: importable in a spawned process, as test modules are not."""

from __future__ import annotations

import os
import time
from typing import Any

import torch

from quamba_export.calib.data import Tokens
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.runtime.errors import QuambaError


def logits(model: FloatMamba, tokens: Tokens) -> Any:
    """The model's logits, the address of its weights modulo 64, and the threads at work."""
    addresses = {tensor.data_ptr() % 64 for tensor in model.tensors.values()}
    with torch.inference_mode():
        return model(torch.from_numpy(tokens))[0].numpy(), addresses, torch.get_num_threads()


def die(model: FloatMamba, tokens: Tokens) -> Any:
    """End the process as the kernel would, at the batch that starts with 7."""
    if tokens[0, 0] == 7:
        os._exit(3)
    return int(tokens[0, 0])


def stay(model: FloatMamba, tokens: Tokens) -> None:
    """Say which process this is, and work for a long time; `model` is anything."""
    print(os.getpid(), flush=True)
    time.sleep(600)


def stay_at(path: str) -> str:
    """The same as a task of a sweep."""
    stay(None, None)  # type: ignore[arg-type]
    return path


def refuse(model: FloatMamba, tokens: Tokens) -> Any:
    raise QuambaError("no such work", found=str(tokens.shape))
