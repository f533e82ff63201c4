"""The header of a file of saved states: safetensors' JSON, with what the states are of in its metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.fields import Fields
from quamba_export.runtime.manifest import MAX_DIMENSION, MAX_STATE_BYTES, Manifest, StateTensor

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

FORMAT, VERSION = "quamba-states", "1"
MAX_HEADER_BYTES = 1 << 20
MAX_TOKENS = 10**15
SAFETENSORS_DTYPE = {"int8": "I8", "float16": "F16", "float32": "F32"}
NUMPY_DTYPE = {"int8": "i1", "float16": "<f2", "float32": "<f4"}  # safetensors is little-endian
REMAKE = "save the states anew: quamba-export run BUNDLE --prompt TEXT --save-state FILE"


@dataclass(frozen=True)
class Header:
    """What a file says of its tensors, every size checked."""

    tokens: int  # behind which the states stand
    next_token: int  # the one to be fed first
    sha256: str  # of both numbers, as `digest_of` begins it, and of everything after the header
    names: tuple[str, ...]  # of the tensors, in the order in which they lie there


def in_file_order(table: tuple[StateTensor, ...]) -> list[StateTensor]:
    """The widest dtype first, so that every tensor is aligned in the file."""
    return sorted(table, key=lambda state: -np.dtype(state.dtype).itemsize)


def digest_of(tokens: int, next_token: int) -> Hash:
    """The sha256 that the tensors' bytes are added to."""
    return sha256(f"{tokens} {next_token}\n".encode())


def header_of(manifest: Manifest, tokens: int, next_token: int, digest: str) -> bytes:
    """The header as JSON, filled with blanks so that the tensors begin at a multiple of 8 bytes.

    Raises QuambaError for a number of tokens or a token out of range.
    """
    if not 0 <= tokens <= MAX_TOKENS:
        raise QuambaError("wrong number of tokens", found=str(tokens), allowed=f"0 to {MAX_TOKENS}")
    if not 0 <= next_token < manifest.vocab_size:
        allowed = f"0 to {manifest.vocab_size - 1}"
        raise QuambaError("the next token is not in the vocabulary", found=str(next_token), allowed=allowed)
    header: dict[str, Any] = {
        "__metadata__": {  # text only, as safetensors has it
            "format": FORMAT,
            "version": VERSION,
            "model": manifest.export_digest,
            "tokens": str(tokens),
            "next_token": str(next_token),
            "sha256": digest,
        }
    }
    begin = 0
    for state in in_file_order(manifest.states):
        end = begin + state.nbytes
        dtype, shape = SAFETENSORS_DTYPE[state.dtype], [1, *state.shape]
        header[state.past] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
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
    tokens = parse_number(metadata, "tokens", MAX_TOKENS)
    next_token = parse_number(metadata, "next_token", manifest.vocab_size - 1)
    digest = metadata.digest("sha256")
    metadata.end()
    begins = [(parse_tensor(fields.object(state.past), state), state) for state in manifest.states]
    fields.end()
    names, end = [], 0
    for begin, state in sorted(begins, key=lambda pair: pair[0]):
        if begin != end:
            found, allowed = str(begin), f"{end}, where the tensor before it ends"
            raise fields.error(f"{state.past}: data_offsets", found, allowed)
        names.append(state.past)
        end += state.nbytes
    if end != data_bytes:
        raise changed(path, f"{data_bytes} bytes of tensors", f"{end} bytes")
    return Header(tokens, next_token, digest, tuple(names))


def check_model(found: str, path: Path, manifest: Manifest) -> None:
    if found != manifest.export_digest:
        raise QuambaError(
            f"{path} holds the states of another model",
            found=f"export {found}",
            allowed=f"export {manifest.export_digest}",
            fix="use the bundle that saved them, or one built from the same export/",
            code=ExitCode.INTEGRITY,
        )


def parse_number(metadata: Fields, key: str, most: int) -> int:
    """A number from 0 to `most`, as text: safetensors' metadata has nothing else."""
    text = metadata.text(key)
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= most):
        raise metadata.error(key, repr(text), f"digits: 0 to {most}")
    return int(text)


def parse_tensor(fields: Fields, state: StateTensor) -> int:
    """Where the tensor begins; its dtype, shape and size are those of the state."""
    fields.choice("dtype", (SAFETENSORS_DTYPE[state.dtype],))
    wanted = (1, *state.shape)
    if (shape := fields.integers("shape", 1, MAX_DIMENSION, len(wanted))) != wanted:
        raise fields.error("shape", str(list(shape)), str(list(wanted)))
    offsets = fields.integers("data_offsets", 0, MAX_STATE_BYTES, 2)
    if len(offsets) != 2 or offsets[1] - offsets[0] != state.nbytes:
        raise fields.error(
            "data_offsets", str(list(offsets)), f"a begin and an end {state.nbytes} bytes later"
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
