"""A rewound sequence is one that never went further: the same bits, from marks or from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from refusals import refused
from tiny_recurrent import ArrayStates, NumpyEngine, V, write_tiny_export

from quamba_export.runtime.decoder import HostDecoder
from quamba_export.runtime.engine import Ids, Logits, States
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.history import History, history_after
from quamba_export.runtime.manifest import Manifest, read_manifest
from quamba_export.runtime.rewind import rewound
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.saved_states import SavedStates, feed, load_states, save_states
from quamba_export.runtime.text_states import KeptStates


class RoundingEngine(NumpyEngine):
    """Rounds its states at the end of every call, so that the bits depend on the pieces fed."""

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, States]:
        logits, after = super().run(input_ids, states, num_logits)
        return logits, ArrayStates({name: rounded(after[name]) for name in after})


def rounded(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype == np.int8 else array.astype(np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(write_tiny_export(tmp_path_factory.mktemp("rewind") / "export"))


def run(before: SavedStates | None, prompt: list[int], new: int) -> SavedStates:
    """What `run` does: go on by a prompt and so many chosen tokens, with every mark kept."""
    engine = RoundingEngine()
    marks = before.as_marks() if before else []
    if not new:
        return feed(engine, prompt, before).marked(marks, 64)
    fed = [*([before.next_token] if before else []), *prompt]
    decoder = HostDecoder(engine, Sampling(seed=5, temperature=1), [before.states] if before else [])
    chosen = decoder.start([fed])
    for _ in range(new - 1):
        chosen += decoder.step()
    history = history_after(before.history if before else None, fed, chosen)
    return SavedStates(decoder.finish(), history).marked(marks, 64)


def whole() -> SavedStates:
    """18 tokens: 6 of a prompt, 4 chosen, 5 of a second prompt, 3 chosen; marks behind 9."""
    return run(run(None, [9, 8, 7, 6, 5, 4], 4), [3, 4, 5, 6, 7], 3)


def as_far_as(length: int) -> SavedStates:
    """The same text by runs that end after `length` tokens."""
    if length <= 10:
        return run(None, [9, 8, 7, 6, 5, 4][:length], max(0, length - 6))
    return run(run(None, [9, 8, 7, 6, 5, 4], 4), [3, 4, 5, 6, 7][: length - 10], max(0, length - 15))


def same(one: SavedStates, other: SavedStates) -> None:
    assert one.history == other.history
    for name in one.states:
        np.testing.assert_array_equal(one.states[name], other.states[name], strict=True)


@pytest.mark.parametrize("marks", [0, 1])
@pytest.mark.parametrize("length", range(1, 19))
def test_any_length_is_that_of_a_run_that_never_went_further(
    manifest: Manifest, tmp_path: Path, length: int, marks: int
) -> None:
    text = whole()
    save_states(tmp_path / "states", text.marked(text.marks, marks), manifest)
    saved = load_states(tmp_path / "states", RoundingEngine(), manifest)
    assert [mark.tokens for mark in saved.marks] == [9] * marks
    same(rewound(RoundingEngine(), saved, 18 - length), as_far_as(length))
    same(saved, whole())


def test_the_pieces_matter_here() -> None:
    """What the tests above would not see if the engine rounded nothing."""
    one, other = as_far_as(9), feed(RoundingEngine(), list(as_far_as(9).history.tokens))
    assert any((one.states[name] != other.states[name]).any() for name in one.states)


def test_only_what_came_after_the_mark_is_computed() -> None:
    engine = RoundingEngine()
    back = rewound(engine, whole(), 2)
    assert engine.calls == [(1, 6)]  # the token left over and the second prompt, in one piece
    assert [mark.tokens for mark in back.marks] == [9]
    assert rewound(engine, whole(), 8).marks == ()


def test_what_goes_on_after_a_rewind_is_saved_and_rewound_again(manifest: Manifest, tmp_path: Path) -> None:
    engine = RoundingEngine()
    other = run(rewound(engine, whole(), 9), [1, 2], 2)
    save_states(tmp_path / "states", other, manifest)
    loaded = load_states(tmp_path / "states", engine, manifest)
    same(rewound(engine, loaded, 4), rewound(engine, whole(), 9))


@pytest.mark.parametrize("tokens", [-1, 18, 1 << 70])
def test_one_token_is_left(tokens: int) -> None:
    with refused("cannot be taken back", str(tokens), "0 to 17", code=ExitCode.USAGE):
        rewound(RoundingEngine(), whole(), tokens)


@pytest.mark.parametrize(
    ("history", "places", "part"),
    [
        (History((1, 2, V), ((2, 1),)), [], "a token not known"),
        (History((1, 2, -1), ((2, 1),)), [], "a token not known"),
        (History((1, 2, 3), ((1, 1),)), [], "the pieces fed"),
        (History((1, 2, 3), ((2, 2),)), [], "the pieces fed"),
        (History((1, 2, 3), ((-2, 1), (4, 1))), [], "the pieces fed"),
        (History((1, 2, 3), ((0, 5), (2, 1))), [], "the pieces fed"),
        (History((1, 2, 3), ((2, 1),)), [1], "the places of its states"),
        (History((1, 2, 3), ((1, 2),)), [1, 1], "the places of its states"),
        (History((1, 2, 3), ((1, 2),)), [2], "the places of its states"),
        (History((1, 2, 3), ((1, 2),)), [-1], "the places of its states"),
        (History((1,) * 99, ((1, 98),)), list(range(1, 67)), "its marks"),
    ],
)
def test_a_file_with_another_history_is_refused(
    manifest: Manifest, tmp_path: Path, history: History, places: list[int], part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Written by someone who made the digest agree."""
    states = NumpyEngine().zero_states(1)
    marks = tuple(KeptStates.copy_of(states, place) for place in places)
    module = "quamba_export.runtime.saved_states"
    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.check_history", lambda *_: None)
        patch.setattr("quamba_export.runtime.saved_states_header.MAX_MARKS", 99)
        save_states(tmp_path / "states", SavedStates(states, history, marks), manifest)
    with refused(part if part != "its marks" else "'shape'"):
        load_states(tmp_path / "states", NumpyEngine(), manifest)
