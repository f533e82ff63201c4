"""Sessions: the states behind a conversation, kept between its requests.

A request carries its whole text, as every OpenAI client sends it; with the name of a session, the part that
the session has behind it is not fed again. A session therefore changes what a request costs and never what
it means: one that has expired, or whose text does not begin this one, is as good as none. The states of its
last turns are kept, so that a message that is edited or asked again goes on from the turn before it. Of the
text only its length and a digest are kept.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from quamba_export.runtime.text_states import TextStates

Turns = tuple[TextStates, ...]  # the last one first


class Sessions:
    """At most `limit` sessions, the least recently used one going first, and each for so long only."""

    def __init__(
        self, limit: int, seconds: float, turns: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """seconds: how long a session is kept since it was last used; turns: of each, the last first."""
        self.limit, self.seconds, self.turns, self._clock = limit, seconds, turns, clock
        self._kept: OrderedDict[str, tuple[float, Turns]] = OrderedDict()  # oldest use first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of the states kept."""
        return sum(turn.states.nbytes for _, turns in self._kept.values() for turn in turns)

    def find(self, name: str) -> Turns:
        """The turns of the session of this name, now the most recently used one; () where there is none."""
        self.expire()
        if name not in self._kept:
            return ()
        _, turns = self._kept.pop(name)
        self._kept[name] = self._clock(), turns
        return turns

    def begun(self, name: str, text: str) -> TextStates | None:
        """The last turn of the session that `text` goes on from."""
        return next((turn for turn in self.find(name) if turn.rest_of(text)), None)

    def keep(self, name: str, turn: TextStates, text: str) -> None:
        """Add a turn that was asked by `text`. Those that it does not go on from were taken back."""
        before = tuple(kept for kept in self.find(name) if kept.rest_of(text))
        self._kept.pop(name, None)
        self._kept[name] = self._clock(), (turn, *before)[: self.turns]
        while len(self._kept) > self.limit:
            self._kept.popitem(last=False)

    def forget(self, name: str) -> bool:
        """Whether there was such a session."""
        self.expire()
        return self._kept.pop(name, None) is not None

    def expire(self) -> None:
        oldest = self._clock() - self.seconds
        while self._kept and next(iter(self._kept.values()))[0] < oldest:
            self._kept.popitem(last=False)
