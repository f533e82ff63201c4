"""Bits a byte of a model on documents, every token scored once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from corpus import encode
from tokenizers import Tokenizer

from quamba_export.calib.model.float_model import FloatMamba

WINDOW = 1024


@torch.no_grad()
def bits_a_byte(
    model: FloatMamba,
    tokenizer: Tokenizer,
    documents: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    batch: int = 4,
) -> float:
    """Cross-entropy in bits over the UTF-8 bytes of the documents.

    The bits of each end of text count, though no byte stands for it.
    Windows of WINDOW tokens from a zero state; the last target of a window is the first input of the next.
    """
    stream = encode(tokenizer, documents)
    inputs, targets = stream[:-1], stream[1:]
    whole = len(inputs) // WINDOW * WINDOW
    nats = 0.0
    for first in range(0, whole, batch * WINDOW):
        part = slice(first, min(first + batch * WINDOW, whole))
        nats += _nats(model, inputs[part].reshape(-1, WINDOW), targets[part], device)
    if whole < len(inputs):
        nats += _nats(model, inputs[None, whole:], targets[whole:], device)
    return nats / math.log(2) / sum(len(text.encode()) for text in documents)


def _nats(model: FloatMamba, inputs: np.ndarray, targets: np.ndarray, device: torch.device | str) -> float:
    """inputs (B, L), targets (B * L,) -> summed cross-entropy."""
    logits, _ = model(torch.from_numpy(inputs).to(device))
    return F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).to(device), reduction="sum").item()
