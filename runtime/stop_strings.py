"""Ending a text at a stop string, which may begin in one token and end in another."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes a stream of text on, holding back what may yet turn out to begin a stop string.

    The one that ends first counts, and of those the longest, so that the result does not depend on how the
    text was cut into pieces. The stop string itself is not passed on.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(string for string in strings if string)
        self._held = ""
        self.found = False

    def feed(self, piece: str) -> str:
        """The text that may be shown after `piece` has been added; sets `found` at the first stop string."""
        self._held += piece
        ends = [
            (begin + len(string), begin)
            for string in self._strings
            if (begin := self._held.find(string)) >= 0
        ]
        if ends:
            self.found = True
            shown, self._held = self._held[: min(ends)[1]], ""
            return shown
        keep = max((overlap(self._held, string) for string in self._strings), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def flush(self) -> str:
        """What was held back, at the end of the stream."""
        shown, self._held = self._held, ""
        return shown


def overlap(text: str, string: str) -> int:
    """Length of the longest beginning of `string`, short of the whole, that `text` ends with."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)
