"""What is asked of the engine, and what comes back: the seam between its thread and the HTTP server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.generate import Generation, Limits
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.text_states import KeptStates


@dataclass(frozen=True)
class Text:
    """Some more text of a sequence; a token that completes no character has an empty one."""

    text: str


@dataclass(frozen=True)
class End:
    """The end of a sequence: all text has been sent."""

    generation: Generation
    timed_out: bool  # the request's time was up: finish_reason says "length"
    states: KeptStates | None  # behind every token but the last one; of a job with `keep`


@dataclass(frozen=True)
class Failed:
    """The end of a sequence without a result."""

    status: int  # of HTTP
    message: str


Event = Text | End | Failed


@dataclass(eq=False)
class Job:
    """One sequence to be continued. `send` is called in the engine's thread and must not wait."""

    ids: list[int]  # to feed, one or more
    limits: Limits  # max_new_tokens 1 or more
    sampling: Sampling
    send: Callable[[Event], None]
    deadline: float  # of time.monotonic(), s
    before: KeptStates | None = None  # what `ids` go on from
    keep: bool = False  # whether the states at the end are wanted
    cancelled: bool = False  # set by whoever no longer waits: the engine drops it at its next turn
    arrived: float = field(default_factory=time.monotonic)

    @property
    def recent(self) -> tuple[int, ...]:
        """The last tokens behind what it feeds."""
        return self.before.recent if self.before else ()

    def occurred(self, vocab_size: int) -> NDArray[np.bool_]:
        """The tokens behind what it feeds, (V,)."""
        if self.before is None or self.before.occurred is None:
            return np.zeros(vocab_size, dtype=bool)
        return np.unpackbits(self.before.occurred, count=vocab_size).astype(bool)
