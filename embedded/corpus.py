"""The King James Bible as documents: chapters, the fixed split, the tokenizer, token streams.

The text is public domain (in the United Kingdom its printing is under letters patent). Debian ships it:

    apt-get install bible-kjv bible-kjv-text
    bible -f "Gen1:1-Rev22:21" > kjv.txt        # one verse a line: `Ge1:1 In the beginning God ...`

A document is one chapter: its verses without their references, one a line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from quamba_export.runtime.errors import QuambaError

END_OF_TEXT = "<|endoftext|>"
EOS = 0  # its id in both checkpoints
VOCAB_SIZE = 1024
DOCUMENT_SEPARATOR = "\0"

_VERSE = re.compile(r"(?P<chapter>\d?[A-Za-z]+\d+):\d+ (?P<text>\S.*)")

# Chapter n of the book (from 0) goes by n modulo 40, so that every part of the book is in every split.
_VALIDATION = {19, 39}  # reported only: never trained on, never selected on
_SELECTION = {9}  # never trained on: decides which step is kept
_CALIBRATION = {4, 14, 24, 34}  # trained on as well


@dataclass(frozen=True)
class Corpus:
    """Documents of each split; calibration is a part of train."""

    train: list[str]
    selection: list[str]
    validation: list[str]
    calibration: list[str]


def read_chapters(path: Path) -> list[str]:
    """Chapters in book order, from lines `Ge1:1 In the beginning ...`; QuambaError on any other line."""
    chapters: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        verse = _VERSE.fullmatch(line)
        if verse is None:
            raise QuambaError(
                f"{path}, line {number} is not a verse",
                found=repr(line[:60]),
                allowed="a reference, a space and the verse: 'Ge1:1 In the beginning God created ...'",
                fix='bible -f "Gen1:1-Rev22:21" > kjv.txt (Debian packages bible-kjv and bible-kjv-text)',
            )
        chapters.setdefault(verse["chapter"], []).append(verse["text"])
    return ["\n".join(verses) for verses in chapters.values()]


def split(chapters: Sequence[str]) -> Corpus:
    """Held-out splits are whole chapters, chosen by position alone."""

    def chosen(remainders: set[int]) -> list[str]:
        return [text for number, text in enumerate(chapters) if number % 40 in remainders]

    held_out = _VALIDATION | _SELECTION
    return Corpus(
        train=chosen(set(range(40)) - held_out),
        selection=chosen(_SELECTION),
        validation=chosen(_VALIDATION),
        calibration=chosen(_CALIBRATION),
    )


def train_tokenizer(documents: Sequence[str]) -> Tokenizer:
    """Byte-level BPE of VOCAB_SIZE entries, end of text first; any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: Sequence[str]) -> np.ndarray:
    """Token ids (n,) int64: end of text, then each document followed by end of text."""
    ids = [EOS]
    for encoding in tokenizer.encode_batch(list(documents), add_special_tokens=False):
        ids.extend([*encoding.ids, EOS])
    return np.array(ids, dtype=np.int64)


def write_documents(documents: Sequence[str], path: Path) -> None:
    path.write_text(DOCUMENT_SEPARATOR.join(documents), encoding="utf-8")


def read_documents(path: Path) -> list[str]:
    """What write_documents wrote."""
    return path.read_text(encoding="utf-8").split(DOCUMENT_SEPARATOR)
