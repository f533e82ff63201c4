"""Cloze accuracy: how often a model's likeliest continuation of a passage is its last word.

As LAMBADA counts it (Paperno et al., arXiv 1606.06031), on passages cut from any local text by one rule.
Every token of the word must be the likeliest one behind the tokens before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quamba_export.exporter.console import Advance
from quamba_export.exporter.evaluation.evaluate import Evaluation, Mode, windows_a_call
from quamba_export.exporter.evaluation.language_models import Ids, LanguageModel, padded
from quamba_export.runtime.errors import QuambaError

CONTEXT_WORDS = 40  # words in front of the last one, at least: about LAMBADA's, whose passages have 75 tokens
MOST_WORDS = 120
MAX_BATCH = 32  # passages a call
_WORD = re.compile(r"\S+")
_LAST = re.compile(r"([A-Za-z]{3,})[.!?][\"')]*")


@dataclass(frozen=True)
class Passage:
    """A text up to the space in front of its last word, and that word with the space, without punctuation."""

    context: str
    word: str


@dataclass(frozen=True)
class Cloze:
    """What a model made of a text's passages."""

    passages: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of the passages."""
        return self.correct / self.passages

    @property
    def standard_error(self) -> float:
        """Of the accuracy, by the binomial distribution."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.passages)


def cut_passages(documents: Iterable[str]) -> Iterator[Passage]:
    """Passages of documents, one behind the other, in their order.

    A passage runs to the first word with at least CONTEXT_WORDS in front of it that ends a sentence, is made
    of three letters or more, and stands in the passage already (a model then can know it from the text, as in
    five of six passages of LAMBADA). After MOST_WORDS without one the next passage begins.
    """
    for document in documents:
        words = list(_WORD.finditer(document))
        first = 0
        for k, found in enumerate(words):
            last = _LAST.fullmatch(found.group())
            if k - first >= CONTEXT_WORDS and last:
                context, word = document[words[first].start() : found.start()].rstrip(), last.group(1)
                if re.search(rf"\b{word}\b", context):
                    yield Passage(context, f" {word}")
                    first = k + 1
            if k - first >= MOST_WORDS:
                first = k + 1


def read_passages(source: str | Path, count: int) -> list[Passage]:
    """The first `count` passages of a text. Raises QuambaError where it has none."""
    from quamba_export.calib.data import read_documents

    found = list(islice(cut_passages(read_documents(source)), count))
    if not found:
        raise QuambaError(
            f"{source} has no passage for the cloze accuracy",
            found="no sentence that ends in a word of the passage in front of it",
            allowed=f"prose: a passage has {CONTEXT_WORDS} to {MOST_WORDS} words",
        )
    return found


def cloze(
    model: LanguageModel,
    passages: Sequence[Passage],
    mode: Mode = "prefill",
    advance: Advance = lambda amount: None,
) -> Cloze:
    """Score `model` on passages: whole ones in a call, or token by token through the stored states."""
    rows = sorted(_encoded(model, passages), key=lambda row: len(row[0]))
    at_once = windows_a_call("prefill", len(rows[-1][0]) * model.vocab_size)
    size = min(MAX_BATCH, model.max_batch, at_once)
    correct = 0
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        first = min(context for _, context in batch) - 1
        guesses = _guesses(model, padded([ids for ids, _ in batch], model.eos_token_id), first, mode)
        correct += sum(_is_right(guess, *row) for guess, row in zip(guesses, batch, strict=True))
        advance(len(batch))
    return Cloze(len(rows), correct)


def with_cloze(
    result: Evaluation,
    model: LanguageModel,
    against: LanguageModel | None,
    passages: Sequence[Passage],
    advance: Advance = lambda amount: None,
) -> Evaluation:
    """`result` with the cloze accuracy of `model`, and of the model it was compared with, in its mode.

    A float one reads whole passages.
    """
    own = cloze(model, passages, result.mode, advance)
    how: Mode = "prefill" if against and against.is_float else result.mode
    other = cloze(against, passages, how).accuracy if against else None
    return replace(
        result,
        cloze_passages=own.passages,
        cloze_accuracy=own.accuracy,
        cloze_standard_error=own.standard_error,
        against_cloze_accuracy=other,
    )


def _encoded(model: LanguageModel, passages: Sequence[Passage]) -> list[tuple[Ids, int]]:
    """Token ids of each whole passage (L,), and how many of them are its context."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model.tokenizer_path))
    contexts = tokenizer.encode_batch([p.context for p in passages], add_special_tokens=False)
    wholes = tokenizer.encode_batch([p.context + p.word for p in passages], add_special_tokens=False)
    return [(np.array(w.ids, np.int64), _shared(c.ids, w.ids)) for c, w in zip(contexts, wholes, strict=True)]


def _shared(context: Sequence[int], whole: Sequence[int]) -> int:
    """Leading tokens that both have; a tokenizer may join the end of the context to the word."""
    same = (a == b for a, b in zip(context, whole, strict=False))
    return max(1, min(sum(takewhile(bool, same)), len(whole) - 1))


def _guesses(model: LanguageModel, batch: Ids, first: int, mode: Mode) -> NDArray[np.int64]:
    """The likeliest token behind each one of batch (B, L) -> (B, L); in prefill 0 in front of `first`."""
    if mode == "prefill":
        found = np.zeros_like(batch)
        found[:, first:] = model.forward(batch, None, batch.shape[1] - first)[0].argmax(-1)
        return found
    states, columns = None, []
    for position in range(batch.shape[1]):
        logits, states = model.forward(batch[:, position : position + 1], states)
        columns.append(logits[:, -1].argmax(-1))
    return np.stack(columns, axis=1)


def _is_right(guess: NDArray[np.int64], ids: Ids, context: int) -> bool:
    return bool((guess[context - 1 : len(ids) - 1] == ids[context:]).all())
