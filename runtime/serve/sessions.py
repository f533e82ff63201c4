"""Sessions: the states behind a conversation, kept between its requests.

A request carries its whole text, as every OpenAI client sends it; with the name of a session, the part that
the session has behind it is not fed again. A session therefore changes what a request costs and never what
it means: one that has expired, or whose text does not begin this one, is as good as none. Of the text only
its length and a digest are kept.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from quamba_export.runtime.text_states import TextStates


class Sessions:
    """At most `limit` sessions, the least recently used one going first, and each for so long only."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """seconds: how long a session is kept since it was last used."""
        self.limit, self.seconds, self._clock = limit, seconds, clock
        self._kept: OrderedDict[str, tuple[float, TextStates]] = OrderedDict()  # oldest use first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of the states kept."""
        return sum(session.states.nbytes for _, session in self._kept.values())

    def find(self, name: str) -> TextStates | None:
        """The session of this name, now the most recently used one."""
        self.expire()
        if name not in self._kept:
            return None
        _, session = self._kept.pop(name)
        self._kept[name] = self._clock(), session
        return session

    def keep(self, name: str, session: TextStates) -> None:
        self.expire()
        self._kept.pop(name, None)
        self._kept[name] = self._clock(), session
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
