"""The header of a file of saved states: safetensors' JSON, with what the states are of in its metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.fields import Fields
from quamba_export.runtime.manifest import Manifest, StateTensor

FORMAT, VERSION = "quamba-states", "2"
MAX_HEADER_BYTES = 1 << 20
MAX_TOKENS = 1 << 26
MAX_MARKS = 64
MAX_BYTES = 1 << 40
SAFETENSORS_DTYPE = {"int8": "I8", "float16": "F16", "float32": "F32", "int32": "I32"}
NUMPY_DTYPE = {"int8": "i1", "float16": "<f2", "float32": "<f4", "int32": "<i4"}  # it is little-endian
REMAKE = "save the states anew: quamba-export run BUNDLE --prompt TEXT --save-state FILE"


@dataclass(frozen=True)
class Sizes:
    """How much history a file holds."""

    tokens: int  # of the text, the one to be fed next too
    feeds: int  # different pieces in which they were fed, one after another
    rows: int  # of every state: the marks, and the end last


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors, every size checked."""

    sha256: str  # of everything after the header
    entries: tuple[Entry, ...]  # in the order in which they lie there


def layout(table: Sequence[StateTensor], sizes: Sizes) -> list[Entry]:
    """Every tensor, the widest dtype first, so that each is aligned in the file."""
    history = [
        Entry("tokens", "int32", (sizes.tokens,)),
        Entry("feeds", "int32", (sizes.feeds, 2)),
        Entry("marks", "int32", (sizes.rows,)),
    ]
    states = [Entry(state.past, state.dtype, (sizes.rows, *state.shape)) for state in table]
    return sorted([*history, *states], key=lambda entry: -np.dtype(entry.dtype).itemsize)


def header_of(manifest: Manifest, sizes: Sizes, digest: str) -> bytes:
    """The header as JSON, filled with blanks so that the tensors begin at a multiple of 8 bytes."""
    header: dict[str, Any] = {
        "__metadata__": {  # text only, as safetensors has it
            "format": FORMAT,
            "version": VERSION,
            "model": manifest.export_digest,
            "sha256": digest,
        }
    }
    begin = 0
    for entry in layout(manifest.states, sizes):
        end = begin + entry.nbytes
        dtype, shape = SAFETENSORS_DTYPE[entry.dtype], list(entry.shape)
        header[entry.name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
        begin = end
    content = json.dumps(header).encode()
    return content + b" " * (-len(content) % 8)


def parse_header(content: bytes, path: Path, manifest: Manifest, data_bytes: int) -> Header:
    """The header of a file with `data_bytes` after it, compared with the model whose states it is to hold.

    Raises QuambaError: exit 4 where model or size differ, exit 3 for a field that is not as saved.
    """
    fields = Fields.from_json(content, str(path), REMAKE)
    metadata = fields.object("__metadata__")
    metadata.choice("format", (FORMAT,))
    metadata.choice("version", (VERSION,))
    check_model(metadata.digest("model"), path, manifest)
    digest = metadata.digest("sha256")
    metadata.end()
    tokens = parse_length(fields.object("tokens"), 1, MAX_TOKENS, 1)
    sizes = Sizes(
        tokens,
        parse_length(fields.object("feeds"), 0, tokens - 1, 2),
        parse_length(fields.object("marks"), 1, MAX_MARKS + 1, 1),
    )
    entries = layout(manifest.states, sizes)
    begins = [(parse_tensor(fields.object(entry.name), entry), entry) for entry in entries]
    fields.end()
    end = 0
    begins.sort(key=lambda pair: (pair[0], pair[1].nbytes))  # an empty one before what begins there too
    for begin, entry in begins:
        if begin != end:
            found, allowed = str(begin), f"{end}, where the tensor before it ends"
            raise fields.error(f"{entry.name}: data_offsets", found, allowed)
        end += entry.nbytes
    if end != data_bytes:
        raise changed(path, f"{data_bytes} bytes of tensors", f"{end} bytes")
    return Header(digest, tuple(entry for _, entry in begins))


def check_model(found: str, path: Path, manifest: Manifest) -> None:
    if found != manifest.export_digest:
        raise QuambaError(
            f"{path} holds the states of another model",
            found=f"export {found}",
            allowed=f"export {manifest.export_digest}",
            fix="use the bundle that saved them, or one built from the same export/",
            code=ExitCode.INTEGRITY,
        )


def parse_length(fields: Fields, low: int, high: int, dimensions: int) -> int:
    """The first dimension of a tensor of the history."""
    shape = fields.integers("shape", 0, MAX_TOKENS, dimensions)
    if not low <= shape[0] <= high:
        raise fields.error("shape", str(list(shape)), f"{low} to {high} in front")
    return shape[0]


def parse_tensor(fields: Fields, entry: Entry) -> int:
    """Where the tensor begins; its dtype, shape and size are those of the entry."""
    fields.choice("dtype", (SAFETENSORS_DTYPE[entry.dtype],))
    if (shape := fields.integers("shape", 0, MAX_TOKENS, len(entry.shape))) != entry.shape:
        raise fields.error("shape", str(list(shape)), str(list(entry.shape)))
    offsets = fields.integers("data_offsets", 0, MAX_BYTES, 2)
    if len(offsets) != 2 or offsets[1] - offsets[0] != entry.nbytes:
        raise fields.error(
            "data_offsets", str(list(offsets)), f"a begin and an end {entry.nbytes} bytes later"
        )
    fields.end()
    return offsets[0]


def changed(path: Path, found: str, allowed: str) -> QuambaError:
    """A file that is not as it was saved (exit 4)."""
    return QuambaError(
        f"{path} has changed since it was saved",
        found=found,
        allowed=allowed,
        fix=REMAKE,
        code=ExitCode.INTEGRITY,
    )
