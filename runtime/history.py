"""The tokens of one sequence, and in what pieces an engine was given them.

A number that is rounded once a call is another one where the calls are others, so the pieces belong to the
text: whoever feeds the same tokens in the same pieces has the same bits, with any engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class History:
    """A text of one token or more; the last one is still to be fed."""

    tokens: tuple[int, ...]
    feeds: tuple[tuple[int, int], ...]  # (tokens a piece, how many such pieces), in order

    @property
    def behind(self) -> int:
        """Tokens that have been fed."""
        return len(self.tokens) - 1

    @property
    def known(self) -> tuple[int, ...]:
        """The tokens that have been fed."""
        return self.tokens[: self.behind]

    @property
    def fed(self) -> int:
        """Tokens in all pieces: `behind`, of a history that is one."""
        return sum(length * times for length, times in self.feeds)

    def ended_at(self, places: Sequence[int]) -> bool:
        """Whether a piece ended (or the text begins) at each of these, which rise to its end."""
        return places[-1] == self.behind and list(places) == sorted({*places} & self.ends())

    def ends(self) -> set[int]:
        """Where the text begins, and where every piece ended."""
        return {0, *(end for _, end in self.pieces())}

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Begin and end of every piece."""
        begin = 0
        for length, times in self.feeds:
            for _ in range(times):
                yield begin, begin + length
                begin += length

    def up_to(self, behind: int) -> History:
        """The history when `behind` tokens had been fed; a longer piece is cut there."""
        feeds: list[tuple[int, int]] = []
        left = behind
        for length, times in self.feeds:
            whole = min(times, left // length)
            left -= whole * length
            append_feed(feeds, length, whole)
            if whole < times:
                append_feed(feeds, left, 1)
                break
        return History(self.tokens[: behind + 1], tuple(feeds))

    def goes_on_from(self, other: History) -> bool:
        """Whether all behind `other` was fed in the same way in front of this one, a piece ending there."""
        cut = self.up_to(other.behind)
        ended = other.behind in self.ends()
        return ended and cut.feeds == other.feeds and cut.tokens[:-1] == other.tokens[:-1]


def history_after(before: History | None, fed: Sequence[int], new: Sequence[int] = ()) -> History:
    """What a run makes of a history: `fed` in one piece, then `new`, chosen one by one.

    fed: begins with the token left over, or replaces it. The last token of all is not fed.
    """
    known = before.behind if before else 0
    tokens = (*(before.tokens[:known] if before else ()), *fed, *new)
    feeds = list(before.feeds) if before else []
    append_feed(feeds, len(fed) - (not new), 1)
    append_feed(feeds, 1, len(new) - 1)
    return History(tokens, tuple(feeds))


def append_feed(feeds: list[tuple[int, int]], length: int, times: int) -> None:
    """Add pieces, if any, to the last ones where these are as long."""
    if length < 1 or times < 1:
        return
    if feeds and feeds[-1][0] == length:
        times += feeds.pop()[1]
    feeds.append((length, times))
