"""A sequence as it was some tokens ago: from the nearest states kept, what was fed since is fed again."""

from __future__ import annotations

from quamba_export.runtime.engine import Engine, States, prefill
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.saved_states import SavedStates


def rewound(engine: Engine, saved: SavedStates, tokens: int) -> SavedStates:
    """The sequence without its last `tokens`, bit for bit as if they had never been.

    Every piece is fed as it was then; the piece that goes too far is cut. `saved` can be used again. Raises
    QuambaError (exit 2) unless 1 token or more is left.
    """
    behind = saved.history.behind - tokens
    if tokens < 0 or behind < 0:
        raise QuambaError(
            "so many tokens cannot be taken back",
            found=str(tokens),
            allowed=f"0 to {saved.history.behind}: a text keeps one token",
            code=ExitCode.USAGE,
        )
    if tokens == 0:
        return SavedStates(saved.states.fork(), saved.history, saved.marks)
    history = saved.history.up_to(behind)
    marks = tuple(mark for mark in saved.marks if mark.tokens <= behind)
    states: States = engine.load_states(marks[-1].arrays) if marks else engine.zero_states(1)
    known = marks[-1].tokens if marks else 0
    for begin, end in history.pieces():
        if begin >= known:
            _, states = prefill(engine, [history.tokens[begin:end]], states)
    return SavedStates(states, history, tuple(mark for mark in marks if mark.tokens < behind))
