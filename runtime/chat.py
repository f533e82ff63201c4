"""A chat with one bundle, turn by turn; any turn can be taken back, because its states are kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quamba_export.runtime.bundle import Bundle
from quamba_export.runtime.chat_text import Message, chat_text_of
from quamba_export.runtime.decoder import HostDecoder
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.generate import Generation, Limits, stream
from quamba_export.runtime.history import History, history_after
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.saved_states import SavedStates
from quamba_export.runtime.text_states import Beginning, KeptStates, TextStates, states_after

KEPT_TURNS = 32  # whose states are kept


@dataclass(frozen=True)
class Turn:
    """Where a chat stands: what was said, and the states behind it, None where it begins."""

    messages: tuple[Message, ...]
    states: TextStates | None
    history: History | None  # the tokens behind the states


class Chat:
    """Messages to and from a model. `generation` is the last answer's."""

    def __init__(self, bundle: Bundle, before: SavedStates | None = None, system: str = "") -> None:
        """before: states to go on from, whose text nobody knows any more; system: the first message."""
        self.bundle, self.text = bundle, chat_text_of(bundle.chat)
        self.generation: Generation | None = None
        self._base: TextStates | None = None
        if before is not None:
            empty, kept = Beginning.of(""), KeptStates.copy_of(before.states, before.tokens)
            self._base = TextStates(kept, empty, before.next_token, empty)
        self._before = before.history if before else None
        self._marks = before.marks if before else ()
        self._turns = [Turn((Message("system", system),) if system else (), self._base, self._before)]

    @property
    def messages(self) -> tuple[Message, ...]:
        return self._turns[-1].messages

    def answer(self, content: str, limits: Limits, sampling: Sampling) -> Iterator[str]:
        """Say something; the answer comes in pieces, and is part of the chat once all have been taken."""
        turn = self._turns[-1]
        asked = (*turn.messages, Message("user", content))
        text = self.text.render(asked)
        kept, known, ids = self._begin(text, turn)
        begin = [self.bundle.engine.load_states(kept.arrays)] if kept else []
        behind = [known.known] if known else []
        decoder, reply = HostDecoder(self.bundle.engine, sampling, begin, behind), ""
        stops = Limits(limits.max_new_tokens, limits.stop + self.text.stop, limits.eos_token_id)
        for piece in stream(decoder, self.bundle.tokenizer, [ids], stops, behind):
            shown = piece.text.lstrip() if self.text.strips and not reply else piece.text
            reply += shown
            self.generation = piece.generation
            yield shown
        if self.generation is None:
            raise RuntimeError("a stream without an end")
        history = history_after(known, ids, self.generation.token_ids)
        states = KeptStates.copy_of(decoder.finish(), history.behind)
        last = [*(known.known if known else ()), *ids]
        after = states_after(self.bundle.tokenizer, text, last, self.generation, states)
        self._turns.append(Turn((*asked, Message("assistant", reply)), after, history))
        self._forget()

    def _begin(self, text: str, turn: Turn) -> tuple[KeptStates | None, History | None, list[int]]:
        """The states that `text` goes on from, the tokens behind them, and those to feed."""
        for begin, history in ((turn.states, turn.history), (self._base, self._before)):
            if begin and (rest := begin.rest_of(text)):
                tokens, unfed = rest
                return begin.states, history, [*tokens, *(self.bundle.encode(unfed) if unfed else [])]
        return None, None, self.bundle.encode(text)

    def rewind(self, turns: int) -> None:
        """Take back the last questions and answers. Raises QuambaError (exit 2) beyond what is kept."""
        if not 1 <= turns < len(self._turns):
            raise QuambaError(
                "so many turns cannot be taken back",
                found=str(turns),
                allowed=f"1 to {len(self._turns) - 1}" if len(self._turns) > 1 else "none so far",
                code=ExitCode.USAGE,
            )
        del self._turns[-turns:]

    def saved(self, marks: int = 0) -> SavedStates:
        """Where the chat stands, for `save_states`. Raises QuambaError (exit 2) at its beginning.

        marks: at most so many of the turns before, of those that this one went on from.
        """
        now = self._turns[-1]
        if now.states is None or now.history is None:
            raise QuambaError("nothing has been said yet", code=ExitCode.USAGE)
        kept = [
            turn.states.states
            for turn in self._turns[:-1]
            if turn.states and turn.history and now.history.goes_on_from(turn.history)
        ]
        states = self.bundle.engine.load_states(now.states.states.arrays)
        return SavedStates(states, now.history).marked([*self._marks, *kept], marks)

    def _forget(self) -> None:
        """Let the oldest turns go."""
        del self._turns[: max(0, len(self._turns) - KEPT_TURNS - 1)]
