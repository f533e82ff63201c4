"""The batch of continuous batching: sequences join and leave it between steps.

B batch, V vocabulary (padded).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.detokenize import CONTEXT_TOKENS, Tokenizer
from quamba_export.runtime.engine import Engine, Logits, States
from quamba_export.runtime.generate import FinishReason, Generation, Row
from quamba_export.runtime.sampling import Sampler
from quamba_export.runtime.serve.job import Job
from quamba_export.runtime.text_states import KeptStates

Arrays = dict[str, NDArray[Any]]  # every past_* tensor of one sequence, (1, ...), on the host


class Slot:
    """One sequence of the batch: its text so far, its own draws, and the token to be fed next."""

    def __init__(self, job: Job, tokenizer: Tokenizer, vocab_size: int) -> None:
        self.job, self.row = job, Row(tokenizer, job.ids, job.limits, job.recent)
        self._before = job.occurred(vocab_size)
        self.sampler = Sampler(job.sampling, vocab_size, [*np.flatnonzero(self._before), *job.ids])
        self.tokens: list[int] = []
        self.first_token_at = self.last_token_at = 0.0

    def add(self, logits: NDArray[np.float32]) -> tuple[str, FinishReason | None]:
        """Choose a token from logits (V,); the text that may be shown and the reason to end, if there is one.

        Raises QuambaError (exit 9) for logits that are not finite.
        """
        token = self.sampler.choose(logits)
        self.tokens.append(token)
        self.last_token_at = time.monotonic()
        self.first_token_at = self.first_token_at or self.last_token_at
        return self.row.add(token)

    def kept(self, arrays: Arrays) -> KeptStates:
        """Its states, with what has to be known of the tokens behind them."""
        fed = [*self.job.ids, *self.tokens[:-1]]
        tokens = (self.job.before.tokens if self.job.before else 0) + len(fed)
        self._before[fed] = True
        recent = (*self.job.recent, *fed)[-CONTEXT_TOKENS:]
        return KeptStates(arrays, tokens, np.packbits(self._before), recent)

    def generation(self, reason: FinishReason) -> Generation:
        """What is known at the end. TTFT counts from the request's arrival, waiting included."""
        steps = len(self.tokens) - 1
        tpot = (self.last_token_at - self.first_token_at) / steps if steps > 0 else None
        return self.row.generation(reason, self.first_token_at - self.job.arrived, tpot or None)


class Slots:
    """The sequences that are decoded together, and their states in the engine.

    The states are regrouped only when somebody has joined or left: through host arrays, once, however many
    come and go. A sequence that is alone keeps the states of its prefill as they are.
    """

    def __init__(self, engine: Engine) -> None:
        self.slots: list[Slot] = []
        self._engine = engine
        self._states: States | None = None  # of the slots, in order

    def join(self, slot: Slot, states: States) -> None:
        """Add a sequence whose states (1, ...) are behind everything but its last token."""
        self._regroup(list(range(len(self.slots))), [states])
        self.slots.append(slot)

    def leave(self, gone: Sequence[Slot]) -> None:
        """Drop these sequences with their states."""
        stay = [index for index, slot in enumerate(self.slots) if slot not in gone]
        if len(stay) == len(self.slots):
            return
        self._regroup(stay, [])
        self.slots = [self.slots[index] for index in stay]

    def states_of(self, slot: Slot) -> Arrays:
        """A copy of one sequence's states, behind everything but its last token."""
        index, states = self.slots.index(slot), self._states
        if states is None:
            raise RuntimeError("a slot without states")
        return {name: states[name][index : index + 1].copy() for name in states}

    def step(self) -> Logits:
        """Feed the last token of every sequence; logits (B, V) in the order of `slots`."""
        if self._states is None:
            raise RuntimeError("a step of no sequences")
        ids = np.array([slot.tokens[-1] for slot in self.slots], dtype=np.int64)[:, None]  # (B, 1)
        states, self._states = self._states, None
        logits, self._states = self._engine.run(ids, states)
        return logits[:, -1]

    def _regroup(self, stay: list[int], joining: list[States]) -> None:
        """Make the states those of the slots `stay` and then those of `joining`."""
        states, self._states = self._states, None
        if not stay or states is None:
            self._states = joining[0] if joining else None
            return
        arrays = {
            name: np.concatenate([states[name][stay], *(part[name] for part in joining)]) for name in states
        }
        del states, joining  # an engine may use their memory for the new ones
        self._states = self._engine.load_states(arrays)
