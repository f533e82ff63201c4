"""Text -> documents -> one stream of token ids -> windows: the only way text enters the project.

Documents are tokenized one by one without special tokens, each followed by the end-of-text id, and joined in
file order, so that a figure measured on a text does not depend on who read it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from quamba_export.calib.hub_text import dataset_documents, is_hub_name
from quamba_export.calib.nearest_path import nearest_path
from quamba_export.runtime.errors import QuambaError

Tokens = NDArray[np.int64]

_BATCH = 64  # documents handed to the tokenizer at once: it works on them in parallel


def read_documents(source: str | Path) -> Iterator[str]:
    """Documents of a text, in file order, empty ones left out.

    source: a .jsonl file (one object with a "text" a line), any other file (UTF-8, documents separated by
        \\0, or by blank lines where no \\0 occurs), or a Hugging Face dataset as NAME, NAME:SPLIT or
        NAME:CONFIG:SPLIT.

    Raises QuambaError naming the file and line that cannot be read.
    """
    path = Path(source)
    if path.is_file():
        documents = _jsonl_documents(path) if path.suffix == ".jsonl" else _text_documents(path)
    elif path.exists() or path.suffix in (".txt", ".jsonl") or not is_hub_name(str(source)):
        raise QuambaError(
            f"no text at {path}",
            found="a directory" if path.is_dir() else "no such file",
            allowed="a .txt or .jsonl file, or the name of a Hugging Face dataset",
            fix=nearest_path(path),
        )
    else:
        documents = dataset_documents(str(source))
    return (document for document in documents if document.strip())


def token_stream(
    source: str | Path, tokenizer_path: Path, eos_token_id: int, *, limit: int | None = None
) -> Tokens:
    """Token ids (T,) int64 of all documents of `source`, each followed by eos_token_id, cut after `limit`.

    Raises QuambaError where the text or the tokenizer cannot be read.
    """
    tokenizer = _load_tokenizer(tokenizer_path)
    pieces: list[Tokens] = []
    found = 0
    for batch in _batches(read_documents(source), _BATCH):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            pieces.append(np.array([*encoding.ids, eos_token_id], dtype=np.int64))
            found += pieces[-1].size
        if limit is not None and found >= limit:
            break
    stream = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
    return stream[:limit]


def windows(stream: Tokens, size: int, count: int | None = None) -> Tokens:
    """The first `count` (or all) contiguous windows (n, size) of stream (T,), without a last, partial one."""
    whole = stream[: stream.size // size * size].reshape(-1, size)
    return whole[:count]


def calibration_windows(
    source: str | Path,
    tokenizer_path: Path,
    eos_token_id: int,
    *,
    count: int,
    size: int,
    seed: int | None = None,
    flags: tuple[str, str] = ("--calib-size", "--calib-seqlen"),
) -> Tokens:
    """`count` windows of `size` tokens (count, size): the first ones, or a draw of all where a seed is given.

    flags: what a command calls `count` and `size`, for errors.

    Raises QuambaError where the text holds fewer than count * size tokens.
    """
    for flag, value in zip(flags, (count, size), strict=True):
        if value < 1:
            raise QuambaError(f"{flag} must be positive", found=str(value), allowed="1 or more")
    needed = count * size
    stream = token_stream(source, tokenizer_path, eos_token_id, limit=needed if seed is None else None)
    if stream.size < needed:
        raise QuambaError(
            f"too little text in {source}",
            found=f"{stream.size} tokens",
            allowed=f"at least {needed} tokens ({count} samples of {size})",
            fix=_fewer_or_shorter(stream.size, count, size, flags),
        )
    every = windows(stream, size)
    if seed is None:
        return every[:count]
    return every[np.random.default_rng(seed).permutation(len(every))[:count]]


def _fewer_or_shorter(tokens: int, count: int, size: int, flags: tuple[str, str]) -> str:
    """What of a text of so many tokens can be taken, by the flag that asks for no more."""
    if tokens >= size:
        return f"give a longer text, or {flags[0]} {tokens // size}"
    return f"give a longer text, or {flags[1]} {tokens // count}" if tokens >= count else "give a longer text"


def data_digest(tokens: Tokens) -> str:
    """sha256 hex over the shape and the little-endian int64 ids of tokens (n, size)."""
    digest = hashlib.sha256(repr(tokens.shape).encode())
    digest.update(np.ascontiguousarray(tokens, dtype="<i8").tobytes())
    return digest.hexdigest()


def _text_documents(path: Path) -> Iterator[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise QuambaError(
            f"{path} is not UTF-8 text", found=f"byte {error.start} cannot be decoded"
        ) from error
    yield from text.split("\0") if "\0" in text else re.split(r"\r?\n(?:[ \t\r]*\n)+", text)


def _jsonl_documents(path: Path) -> Iterator[str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise QuambaError(f"{path}, line {number}: not JSON", found=str(error)) from error
            text = record.get("text") if isinstance(record, dict) else None
            if not isinstance(text, str):
                raise QuambaError(
                    f"{path}, line {number}: no text",
                    found=f"keys {', '.join(sorted(record))}" if isinstance(record, dict) else "no object",
                    allowed='an object with a string under "text"',
                )
            yield text


def _load_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise QuambaError(
            "no tokenizer", found=f"no file {path}", allowed="a tokenizer.json beside the checkpoint"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise QuambaError(f"{path} is not a tokenizer", found=str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _batches(documents: Iterator[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for document in documents:
        batch.append(document)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
