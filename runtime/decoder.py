"""Prompts in, one token a sequence and step out: the part of generation that an engine may take over.

`HostDecoder` samples on the host from any engine's logits; where the likeliest token is wanted it asks the
engine, which may choose it without showing logits. An engine that samples gives a decoder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from quamba_export.runtime.engine import Engine, Logits, States, checked_ids, prefill, stack_states
from quamba_export.runtime.errors import ExitCode, QuambaError
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

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling,
        begin: Sequence[States] = (),
        behind: Sequence[Sequence[int]] = (),
    ) -> None:
        """begin: of every prompt the states (of one sequence) that it goes on from, consumed; none: zero.

        behind: the tokens behind each of them. Raises QuambaError (exit 2) for a repetition penalty without.
        """
        if sampling.repetition_penalty != 1.0 and len(behind) != len(begin):
            raise QuambaError(
                "nobody knows which tokens have occurred",
                found=f"--repetition-penalty {sampling.repetition_penalty}, and states without their tokens",
                allowed="a penalty of 1, or states with the tokens behind them",
                code=ExitCode.USAGE,
            )
        self.engine, self.sampling, self._begin, self._behind = engine, sampling, begin, behind
        self._samplers: list[Sampler] = []
        self._states: States | None = None
        self._tokens: list[int] = []

    def start(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Prompts may differ in length: a state has no place for padding, so each is fed by itself."""
        vocab_size = self.engine.vocab_size
        checked = [checked_ids([prompt], vocab_size) for prompt in prompts]  # all, before any is run
        begin: Sequence[States | None] = self._begin or [None] * len(prompts)
        fed = [prefill(self.engine, ids, states) for ids, states in zip(checked, begin, strict=True)]
        behind = self._behind or [()] * len(prompts)
        self._begin = ()
        self._samplers = [
            Sampler(self.sampling, vocab_size, [*before, *prompt], row)
            for row, (before, prompt) in enumerate(zip(behind, prompts, strict=True))
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

    def finish(self) -> States:
        """The states behind every token but those returned last, which were not fed; the caller's own now."""
        states, self._states = self._states, None
        if states is None:
            raise RuntimeError("finish() before start()")
        return states

    def _choose(self, logits: Logits) -> list[int]:
        """The next token of every row from logits (B, 1, V)."""
        self._tokens = [
            sampler.choose(row) for sampler, row in zip(self._samplers, logits[:, -1], strict=True)
        ]
        return self._tokens
