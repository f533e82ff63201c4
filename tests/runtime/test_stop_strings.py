"""Stop strings: the result is the same however the text is cut."""

from hypothesis import given
from hypothesis import strategies as st

from quamba_export.runtime.stop_strings import StopStrings

TEXT = st.text(alphabet="ab\n", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3)


def passed_on(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    matcher, shown = StopStrings(stops), []
    for piece in pieces:
        shown.append(matcher.feed(piece))
        if matcher.found:
            return shown, True
    return [*shown, matcher.flush()], False


def first_end(text: str, stops: list[str]) -> str | None:
    """The text before the stop string that ends first, by trying every end."""
    for end in range(len(text) + 1):
        begins = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begins:
            return text[: min(begins)]
    return None


@given(TEXT, STOPS, st.data())
def test_the_cut_into_pieces_does_not_matter(text: str, stops: list[str], data: st.DataObject) -> None:
    pieces, rest = [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append(rest[:size])
        rest = rest[size:]
    shown, found = passed_on(pieces, stops)
    wanted = first_end(text, stops)
    assert ("".join(shown), found) == (text if wanted is None else wanted, wanted is not None)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    assert passed_on(["one two\n", "\nUs", "er:", " x"], ["\n\nUser:"]) == (["one two", "", ""], True)
    assert passed_on(["ab", "ac", "ab"], ["abc"]) == (["", "abac", "", "ab"], False)
    assert passed_on(["abx"], []) == (["abx", ""], False)
