"""Prompts in, one token a sequence and step out: the part of generation that an engine may take over.

`HostDecoder` samples on the host from any engine's logits; where the likeliest token is wanted it asks the
engine, which may choose it without showing logits. An engine that samples gives a decoder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from quamba_export.runtime.engine import Engine, Logits, States, checked_ids, prefill, stack_states
from quamba_export.runtime.sampling import Sampler, Sampling


class Decoder(Protocol):
    """B sequences that grow by one token a step."""

    def start(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Feed every prompt (1 token or more) and return the first new token of each."""
        ...

    def step(self) -> list[int]:
        """Feed the tokens that were returned last and return the next ones."""
        ...


class HostDecoder:
    """A decoder over an engine, with numpy samplers, one a sequence."""

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        self.engine, self.sampling = engine, sampling
        self._samplers: list[Sampler] = []
        self._states: States | None = None
        self._tokens: list[int] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Prompts may differ in length: a state has no place for padding, so each is fed by itself."""
        checked = [
            checked_ids([prompt], self.engine.vocab_size) for prompt in prompts
        ]  # all, before any is run
        fed = [prefill(self.engine, ids) for ids in checked]
        self._samplers = [
            Sampler(self.sampling, self.engine.vocab_size, prompt, row) for row, prompt in enumerate(prompts)
        ]
        self._states = stack_states(self.engine, [states for _, states in fed])
        return self._choose(np.concatenate([logits for logits, _ in fed]))

    def step(self) -> list[int]:
        if self._states is None:
            raise RuntimeError("step() before start()")
        ids = np.array(self._tokens, dtype=np.int64)[:, None]  # (B, 1)
        if self.sampling.greedy:
            tokens, self._states = self.engine.next_tokens(ids, self._states)
            self._tokens = tokens.tolist()
            return self._tokens
        logits, self._states = self.engine.run(ids, self._states)
        return self._choose(logits)

    def _choose(self, logits: Logits) -> list[int]:
        """The next token of every row from logits (B, 1, V)."""
        self._tokens = [
            sampler.choose(row) for sampler, row in zip(self._samplers, logits[:, -1], strict=True)
        ]
        return self._tokens
