"""The states of one sequence as a file: a prompt computed once, or a conversation put aside.

The layout is that of safetensors, written and read with numpy alone: 8 bytes of header length, the header as
JSON, the tensors one after another: the text's tokens, the pieces in which they were fed, and of every state
a row for each mark and one for the end. A mark is a place in the text that a rewind need not compute anew.
The header's metadata says which model the states are of, and the sha256 of all tensors. The last token of a
text is kept back because logits are not saved: fed with what follows, it chooses the first new token.
States belong to an export: every bundle made of it, on a CPU or in TensorRT, computes the same bits from
them.

Nothing of a file is believed before it is checked: no array is allocated until every size in the header
agrees with the model's own state table and with the size of the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.engine import Engine, States, prefill
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.folder_check import kind_of
from quamba_export.runtime.history import History, history_after
from quamba_export.runtime.manifest import Manifest, StateTensor
from quamba_export.runtime.output_path import check_writable
from quamba_export.runtime.saved_states_header import (
    MAX_HEADER_BYTES,
    MAX_MARKS,
    MAX_TOKENS,
    NUMPY_DTYPE,
    REMAKE,
    Header,
    Sizes,
    changed,
    header_of,
    layout,
    parse_header,
)
from quamba_export.runtime.text_states import KeptStates
from quamba_export.runtime.whole_file import whole_file


@dataclass(frozen=True)
class SavedStates:
    """One sequence up to its last token, which is still to be fed."""

    states: States  # (1, ...) each
    history: History
    marks: tuple[KeptStates, ...] = ()  # earlier states of this history, the oldest first

    @property
    def tokens(self) -> int:
        """Tokens behind the states."""
        return self.history.behind

    @property
    def next_token(self) -> int:
        return self.history.tokens[-1]

    def as_marks(self) -> list[KeptStates]:
        """The marks so far, and a copy of the states of now."""
        return [*self.marks, KeptStates.copy_of(self.states, self.tokens)]

    def marked(self, earlier: Sequence[KeptStates], most: int) -> SavedStates:
        """With the last `most` of the earlier states of this history as marks."""
        behind = [mark for mark in earlier if 0 < mark.tokens < self.tokens]
        return replace(self, marks=tuple(behind[-most:]) if most else ())


def feed(engine: Engine, ids: Sequence[int], before: SavedStates | None = None) -> SavedStates:
    """Go on by `ids`, from `before` (whose states are consumed) or from nothing, where one id is wanted."""
    known, begin = ([before.next_token], before.states) if before else ([], None)
    fed = [*known, *ids]
    if fed[:-1]:
        _, begin = prefill(engine, [fed[:-1]], begin)
    history = history_after(before.history if before else None, fed)
    return SavedStates(begin if begin is not None else engine.zero_states(1), history)


def save_states(path: Path | str, saved: SavedStates, manifest: Manifest) -> int:
    """Write one sequence's states, history and marks to a file, atomically; returns its bytes.

    The states are read, not consumed; of a larger batch, give a slice of each tensor through an engine's
    `load_states`. manifest: of the bundle or export that computed them. Raises QuambaError for states that
    are not one sequence of that model (exit 3) and for a path that cannot be written (exit 2); OSError where
    the disk is full.
    """
    path = Path(path)
    check_writable(path)
    check_history(saved.history, [*(mark.tokens for mark in saved.marks), saved.tokens], manifest)
    arrays, digest = stored(saved, manifest.states), sha256()
    for array in arrays:
        digest.update(bytes_of(array))
    sizes = Sizes(len(saved.history.tokens), len(saved.history.feeds), len(saved.marks) + 1)
    header = header_of(manifest, sizes, digest.hexdigest())
    with whole_file(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in arrays:
            file.write(bytes_of(array))
    return path.stat().st_size


def load_states(path: Path | str, engine: Engine, manifest: Manifest) -> SavedStates:
    """What `save_states` wrote, held by `engine`; the marks on the host.

    Give it to `feed`, or feed `next_token` and what follows; `fork()` the states first to use them again.
    Raises QuambaError: exit 4 where the file is of another model or its bytes are not those that were saved,
    exit 3 for anything else that `save_states` does not write.
    """
    path = Path(path)
    with open_regular(path) as (file, size):
        content = read_header(file, size, path)
        header = parse_header(content, path, manifest, size - 8 - len(content))
        arrays = read_tensors(file, header, path)
    tokens, feeds, places = (arrays.pop(name).tolist() for name in ("tokens", "feeds", "marks"))
    history = History(tuple(tokens), tuple((length, times) for length, times in feeds))
    check_history(history, places, manifest)
    rows = [{name: array[row : row + 1] for name, array in arrays.items()} for row in range(len(places))]
    marks = tuple(KeptStates(row, behind) for row, behind in zip(rows[:-1], places[:-1], strict=True))
    return SavedStates(engine.load_states(rows[-1]), history, marks)


def check_history(history: History, places: Sequence[int], manifest: Manifest) -> None:
    """Refuse (exit 3) tokens that the model has not, and states where no piece of the text ended.

    places: tokens behind every mark and, last, behind the end.
    """
    outside = [token for token in history.tokens if not 0 <= token < manifest.vocab_size]
    if outside:
        wrong, found, allowed = "a token not known", f"{outside[0]}", f"0 to {manifest.vocab_size - 1}"
    elif not 1 <= len(history.tokens) <= MAX_TOKENS:
        wrong, found, allowed = "its length", f"{len(history.tokens)}", f"1 to {MAX_TOKENS} tokens"
    elif any(min(pair) < 1 for pair in history.feeds) or history.fed != history.behind:
        wrong, found, allowed = "the pieces fed", f"{history.fed} tokens", f"{history.behind} in all"
    elif len(places) > MAX_MARKS + 1:
        wrong, found, allowed = "its marks", f"{len(places) - 1}", f"at most {MAX_MARKS}"
    elif not history.ended_at(places):
        wrong, found, allowed = "the places of its states", f"{list(places)}", "ends of pieces, in order"
    else:
        return
    raise QuambaError(f"this is no history of a text, for {wrong}", found=found, allowed=allowed, fix=REMAKE)


def stored(saved: SavedStates, table: Sequence[StateTensor]) -> list[NDArray[Any]]:
    """Every tensor as it lies in the file, in its order. Raises QuambaError for states not of the model."""
    history, rows = saved.history, [*(mark.arrays for mark in saved.marks), saved.states]
    arrays = {
        "tokens": np.array(history.tokens, "<i4"),
        "feeds": np.array(history.feeds, "<i4").reshape(-1, 2),
        "marks": np.array([*(mark.tokens for mark in saved.marks), saved.tokens], "<i4"),
    }
    for state in table:
        arrays[state.past] = np.concatenate([stored_state(state, row) for row in rows])
    sizes = Sizes(len(history.tokens), len(history.feeds), len(rows))
    return [arrays[entry.name] for entry in layout(table, sizes)]


def stored_state(state: StateTensor, states: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """One state (1, ...) in the file's byte order. Raises QuambaError if it is not of the model."""
    array = states.get(state.past)
    shape = (1, *state.shape)
    if array is None or array.shape != shape or array.dtype != state.dtype:
        raise QuambaError(
            f"state '{state.past}' cannot be saved",
            found="no such state" if array is None else f"{array.dtype} {array.shape}",
            allowed=f"one sequence: {state.dtype} {shape}",
        )
    return np.ascontiguousarray(array, dtype=NUMPY_DTYPE[state.dtype])


def bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


@contextmanager
def open_regular(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """Open a regular file, never waiting for a FIFO's other end; yields the file and its size in bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise QuambaError(f"{path} cannot be read", found=str(error), allowed="saved states") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise QuambaError(f"{path} holds no states", found=kind_of(status), allowed="a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file, status.st_size


def read_header(file: BufferedReader, size: int, path: Path) -> bytes:
    """The header's JSON, not larger than allowed and not beyond the file's end."""
    length = int.from_bytes(file.read(8), "little")
    most = min(MAX_HEADER_BYTES, size - 8)
    if not 0 < length <= most:
        raise QuambaError(
            f"{path} holds no states",
            found=f"a header of {length} bytes in a file of {size}",
            allowed=f"a header of 1 to {MAX_HEADER_BYTES} bytes within the file",
            fix=REMAKE,
        )
    return file.read(length)


def read_tensors(file: BufferedReader, header: Header, path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor by name, from a file whose sizes have been checked."""
    digest, arrays = sha256(), {}
    for entry in header.entries:
        array = arrays[entry.name] = np.empty(entry.shape, NUMPY_DTYPE[entry.dtype])
        if file.readinto(bytes_of(array)) != entry.nbytes:
            raise changed(path, "fewer bytes than a moment ago", "a file that nobody writes to")
        digest.update(bytes_of(array))
    if digest.hexdigest() != header.sha256:
        raise changed(path, f"sha256 {digest.hexdigest()}", f"sha256 {header.sha256}")
    return arrays
