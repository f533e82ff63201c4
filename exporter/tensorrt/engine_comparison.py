"""Two engines on the same tokens: a prompt as a whole, in pieces, and token by token.

What counts is the rule of docs/decisions.md: every state is equal, logits differ by the order of fp32 sums.
The command (check.py) prints every finding, the gate of `build` (engine_gate.py) stops at the first
that is not good.

B batch, L length, V vocabulary (padded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.engine import Engine, Ids, Logits, States, prefill

LOGIT_BOUND = 1e-3  # fp32 sums in another order
CHOICES = 4  # greedy steps: an engine may do the first ones otherwise than those that follow


@dataclass(frozen=True)
class Finding:
    """One comparison. found and allowed: in words; state: the first that differs, by layer."""

    what: str
    good: bool
    found: str
    allowed: str
    state: str = ""


def compare(engine: Engine, reference: Engine, ids: Ids, prompt: int, longest: int) -> Iterator[Finding]:
    """The first `prompt` of ids (B, L) as a whole and in pieces, then the rest token by token.

    longest: tokens of the engine's longest call, as it cuts a prompt itself. Both are fed alike: Mamba-2's
    scan rounds its state elsewhere where a prompt is cut within a chunk.
    """
    batch, first, steps = ids.shape[0], ids[:, :prompt], ids.shape[1] - prompt
    wanted, after = prefill(reference, first, chunk=longest)
    found, states = engine.run(first, engine.zero_states(batch))
    yield from compare_call(f"batch {batch}, prompt of {prompt}", (found, states), (wanted, after))
    states, after, pieces = engine.zero_states(batch), reference.zero_states(batch), pieces_of(prompt)
    for piece in np.split(first, np.cumsum(pieces[:-1]), axis=1):
        found, states = engine.run(piece, states)
        wanted, after = reference.run(piece, after)
    yield from compare_call(f"batch {batch}, pieces {pieces}", (found, states), (wanted, after))
    rows, wanted_rows = list[Logits](), list[Logits]()
    for t in range(prompt, ids.shape[1]):
        found, states = engine.run(ids[:, t : t + 1], states)
        wanted, after = reference.run(ids[:, t : t + 1], after)
        rows.append(found)
        wanted_rows.append(wanted)
    several = np.concatenate(rows, axis=1), np.concatenate(wanted_rows, axis=1)
    yield from compare_call(f"batch {batch}, {steps} steps", (several[0], states), (several[1], after))
    yield compare_choices(f"batch {batch}, {CHOICES} greedy steps", engine, states, ids[:, -1:])


def pieces_of(prompt: int) -> tuple[int, int, int, int]:
    """Lengths of the pieces: two of some length, and between them two single tokens."""
    return prompt * 3 // 8, 1, 1, prompt - prompt * 3 // 8 - 2


def compare_positions(engine: Engine, reference: Engine, ids: Ids, longest: int) -> Finding:
    """The logits of the last three tokens of ids (B, L); longest: as in `compare`."""
    found, _ = engine.run(ids, engine.zero_states(len(ids)), 3)
    wanted, _ = prefill(reference, ids, num_logits=3, chunk=longest)
    return compare_logits(f"batch {len(ids)}, 3 logits of the prompt", found, wanted)


def compare_choices(what: str, engine: Engine, states: States, first: Ids) -> Finding:
    """Greedy steps that begin with ids `first` (B, 1), against the likeliest of the same engine's logits."""
    fed, after = [first], states.fork()
    for _ in range(CHOICES):
        tokens, after = engine.next_tokens(fed[-1], after)
        fed.append(tokens[:, None])
    same = 0
    for ids, chosen in pairwise(fed):
        logits, states = engine.run(ids, states)
        same += int((logits[:, -1].argmax(-1) == chosen[:, 0]).sum())
    steps = CHOICES * len(first)
    return Finding(what, same == steps, f"{same}/{steps} the likeliest token", f"{steps}/{steps}")


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
