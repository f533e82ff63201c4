"""How far a rounded scan state drifts from fp32 over thousands of decode steps, all else equal.

One model, with an fp32 state, reads a text token by token. Beside its states every format of state_formats.py
holds its own, fed with the same inputs: what lies between them is what rounding the state has done since the
first token, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from quamba_export.calib.model.network import forward
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.states import States
from quamba_export.calib.studies.state_formats import Held
from quamba_export.calib.studies.state_study import StateStudy
from quamba_export.runtime.errors import QuambaError

POINTS_A_DOUBLING = 4  # of the curves; positions lie evenly in the logarithm
BOUNDED = 1.25  # error at the end / error at a quarter of the way: above it the error still grows


@dataclass(frozen=True)
class StateDrift:
    """One format: root mean square over layers of |h - fp32 h| / |fp32 h|, by tokens read.

    growth: of the error, from a quarter of the tokens to all of them; each the mean of the positions of a
    doubling before it.
    """

    name: str
    tokens: list[int]
    errors: list[float]
    growth: float
    verdict: str  # "bounded" or "grows"


@dataclass
class HeldStates:
    """The states of every format, (F, ...) a layer, and the squared relative errors of the last token."""

    formats: list[Held]
    layers: dict[int, list[Tensor]] = field(default_factory=dict)
    errors: list[Tensor] = field(default_factory=list)  # (F,) a layer


class DriftScan(StateStudy):
    """One token; the batch is the one sequence with an fp32 state."""

    def __init__(self, model: QuantizedModel, held: HeldStates, position: int) -> None:
        super().__init__(model, held.formats, position)
        self._held = held

    def advance(self, state: Tensor, decay: Tensor, inputs: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """fp32 in `state`, and beside it each format's own."""
        before = self._held.layers.setdefault(self._layer, [torch.zeros_like(state) for _ in self._formats])
        state.mul_(decay).addcmul_(inputs, B)
        size = state.square().sum()
        errors = []
        for h, held in zip(before, self._formats, strict=True):
            h.mul_(decay).addcmul_(inputs, B)
            h.copy_(held(h, self._layer, self._position))
            errors.append((h - state).square().sum() / size)
        self._held.errors.append(torch.stack(errors))
        self._layer += 1
        return (state @ C).squeeze(-1)


@torch.no_grad()
def state_drift(
    model: QuantizedModel,
    tokens: Tensor,
    formats: dict[str, Held],
    advance: Callable[[int], None] = lambda amount: None,
) -> list[StateDrift]:
    """Drift of each format on the ids `tokens` (L,).

    model: with an fp32 state. Raises QuambaError for a text of fewer than 64 tokens.
    """
    if len(tokens) < 64:
        raise QuambaError(
            "the text is too short to drift on", found=f"{len(tokens)} tokens", allowed="64 or more"
        )
    wanted, held = set(positions(len(tokens))), HeldStates(list(formats.values()))
    states, curves = model.zero_states(1), {name: dict[int, float]() for name in formats}
    for position, token in enumerate(tokens):
        net = DriftScan(model, held, position)
        ids, last = token.reshape(1, 1), torch.tensor(1)
        _, conv, scan = forward(net, model, ids, states.conv, states.scan_states(), last)
        states = States.of_layers(conv, scan)
        if position + 1 in wanted:
            found = torch.stack(held.errors).mean(0).sqrt().tolist()
            for curve, error in zip(curves.values(), found, strict=True):
                curve[position + 1] = error
        held.errors.clear()
        advance(1)
    return [drift_of(name, curve) for name, curve in curves.items()]


def positions(length: int) -> list[int]:
    """1, 2, 3, 4, ... `length` tokens, evenly in the logarithm."""
    steps = range(math.floor(POINTS_A_DOUBLING * math.log2(length)) + 1)
    return sorted({round(2 ** (step / POINTS_A_DOUBLING)) for step in steps} | {length})


def drift_of(name: str, curve: dict[int, float]) -> StateDrift:
    length = max(curve)

    def mean(end: float) -> float:
        near = [error for tokens, error in curve.items() if end / 2 < tokens <= end]
        return sum(near) / len(near)

    growth = mean(length) / mean(length / 4) if mean(length / 4) > 0 else 1.0
    verdict = "bounded" if growth <= BOUNDED else "grows"
    return StateDrift(name, list(curve), list(curve.values()), growth, verdict)
