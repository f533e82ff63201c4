"""Two engines on the same tokens: a prompt as a whole, in pieces, and token by token.

What counts is the rule of docs/decisions.md: every state is equal, logits differ by the order of fp32 sums.
The command (tensorrt_check.py) prints every finding, the gate of `build` (engine_gate.py) stops at the first
that is not good.

B batch, L length, V vocabulary (padded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.engine import Engine, Ids, Logits, States

PROMPT, STEPS = 100, 64
PIECES = (37, 1, 1, 61)  # of the prompt
LOGIT_BOUND = 1e-3  # fp32 sums in another order


@dataclass(frozen=True)
class Finding:
    """One comparison. found and allowed: in words; state: the first that differs, by layer."""

    what: str
    good: bool
    found: str
    allowed: str
    state: str = ""


def compare(engine: Engine, reference: Engine, ids: Ids) -> Iterator[Finding]:
    """The prompt as a whole and in pieces, then the rest of ids (B, PROMPT + STEPS) token by token."""
    batch, prompt = ids.shape[0], ids[:, :PROMPT]
    wanted, after = reference.run(prompt, reference.zero_states(batch))
    found, states = engine.run(prompt, engine.zero_states(batch))
    yield from compare_call(f"batch {batch}, prompt of {PROMPT}", (found, states), (wanted, after))
    states, start = engine.zero_states(batch), 0
    for length in PIECES:
        found, states = engine.run(prompt[:, start : start + length], states)
        start += length
    yield from compare_call(f"batch {batch}, pieces {PIECES}", (found, states), (wanted, after))
    yield from compare_steps(engine, reference, ids, states, after)
    several, _ = engine.run(prompt, engine.zero_states(batch), 3)
    wanted, _ = reference.run(prompt, reference.zero_states(batch), 3)
    yield compare_logits(f"batch {batch}, 3 logits of the prompt", several, wanted)


def compare_steps(
    engine: Engine, reference: Engine, ids: Ids, states: States, after: States
) -> Iterator[Finding]:
    """Decode ids (B, PROMPT + STEPS) from PROMPT on, with the states of both behind the prompt."""
    batch, found, wanted = ids.shape[0], list[Logits](), list[Logits]()
    for t in range(PROMPT, PROMPT + STEPS):
        logits, states = engine.run(ids[:, t : t + 1], states)
        found.append(logits)
        logits, after = reference.run(ids[:, t : t + 1], after)
        wanted.append(logits)
    yield compare_states(f"batch {batch}, after {STEPS} steps: states", states, after)
    several = np.concatenate(found, axis=1), np.concatenate(wanted, axis=1)
    yield compare_logits(f"batch {batch}, {STEPS} steps: logits", *several)


def compare_call(what: str, found: tuple[Logits, States], wanted: tuple[Logits, States]) -> Iterator[Finding]:
    """The results of one call: states, then logits."""
    yield compare_states(f"{what}: states", found[1], wanted[1])
    yield compare_logits(f"{what}: logits", found[0], wanted[0])


def compare_logits(what: str, found: Logits, wanted: Logits) -> Finding:
    """Both (B, L, V); a difference that is no number is beyond every bound."""
    worst = float(np.abs(found - wanted).max())
    same, positions = int((found.argmax(-1) == wanted.argmax(-1)).sum()), found.shape[0] * found.shape[1]
    return Finding(
        what,
        worst < LOGIT_BOUND,
        f"largest difference {worst:.2e}, same argmax {same}/{positions}",
        f"below {LOGIT_BOUND:g}",
    )


def compare_states(
    what: str, found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]
) -> Finding:
    """Every state value for value, in the order in which the layers compute them."""
    odd, detail = list[str](), ""
    for name in sorted(wanted, key=lambda name: (int(name.rpartition(".")[2]), name)):
        other = np.argwhere(found[name] != wanted[name])
        if len(other) and not odd:
            at = tuple(int(index) for index in other[0])
            values = f"{found[name][at]} instead of {wanted[name][at]}"
            detail = f"; first {name}: {len(other)} of {wanted[name].size} values, at {at} {values}"
        odd += [name] if len(other) else []
    equal = f"{len(wanted) - len(odd)}/{len(wanted)} equal{detail}"
    return Finding(what, not odd, equal, f"{len(wanted)}/{len(wanted)} equal", odd[0] if odd else "")
