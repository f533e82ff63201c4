"""Headers and bytes that were not saved: refused for what is wrong with them, before memory is taken."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refused
from tiny_recurrent import NumpyEngine, V, write_tiny_export

from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import Manifest, read_manifest
from quamba_export.runtime.saved_states import feed, load_states, save_states
from quamba_export.runtime.saved_states_header import MAX_HEADER_BYTES

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_export(tmp_path_factory.mktemp("saved") / "export")


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


@pytest.fixture
def file(manifest: Manifest, tmp_path: Path) -> Path:
    """States of a text of 7 tokens."""
    path = tmp_path / "prompt.safetensors"
    save_states(path, feed(NumpyEngine(), some_ids(7)[0].tolist()), manifest)
    return path


def some_ids(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, V, (1, length))


def rewrite(file: Path, change: Change, data: Callable[[bytes], bytes] = bytes) -> None:
    """Change the header, then the bytes behind it."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    written = json.dumps(header).encode()
    file.write_bytes(len(written).to_bytes(8, "little") + written + data(content[8 + length :]))


def test_trailing_bytes_are_refused(manifest: Manifest, file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")
    with refused("has changed", "bytes of tensors", code=ExitCode.INTEGRITY):
        load_states(file, NumpyEngine(), manifest)


def test_other_bytes_of_the_same_size_are_refused(manifest: Manifest, file: Path) -> None:
    rewrite(file, lambda header: None, lambda data: data[::-1])
    with refused("has changed", "sha256", "--save-state", code=ExitCode.INTEGRITY):
        load_states(file, NumpyEngine(), manifest)


def test_states_of_another_model_are_refused(manifest: Manifest, file: Path) -> None:
    rewrite(file, lambda header: header["__metadata__"].update(model="b" * 64))
    with refused("another model", "b" * 64, manifest.digest, code=ExitCode.INTEGRITY):
        load_states(file, NumpyEngine(), manifest)


CONV, SSM = "past_conv_states.0", "past_ssm_states.1"  # the last and not the last in the file


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda h: h["__metadata__"].update(version="1"), ["'version'", "'1'", "'2'"]),
        (lambda h: h["__metadata__"].update(format="pt"), ["'format'", "'pt'"]),
        (lambda h: h["__metadata__"].pop("model"), ["'model'", "nothing"]),
        (lambda h: h["tokens"].update(shape=[0]), ["tokens", "'shape'", "[0]"]),
        (lambda h: h["tokens"].update(shape=[-1]), ["tokens", "'shape'"]),
        (lambda h: h["tokens"].update(shape=[1 << 40]), ["tokens", "'shape'"]),
        (lambda h: h["tokens"].update(shape=[8]), ["tokens", "'data_offsets'"]),
        (lambda h: h["feeds"].update(shape=[1]), ["feeds", "'shape'", "[1, 2]"]),
        (lambda h: h["feeds"].update(shape=[1 << 26, 2]), ["feeds", "'shape'", "in front"]),
        (lambda h: h["marks"].update(shape=[9999]), ["marks", "'shape'"]),
        (lambda h: h.pop("marks"), ["'marks'", "nothing"]),
        (lambda h: h["__metadata__"].update(sha256="0"), ["'sha256'"]),
        (lambda h: h["__metadata__"].update(more="1"), ["'more'", "does not know"]),
        (lambda h: h.pop("__metadata__"), ["'__metadata__'"]),
        (lambda h: h.pop(SSM), [SSM, "nothing"]),
        (lambda h: h.update(other=h[SSM]), ["'other'", "does not know"]),
        (lambda h: h[SSM].update(dtype="F16"), [SSM, "'dtype'", "'F16'", "'F32'"]),
        (lambda h: h[SSM].update(shape=[2, 8, 4]), [SSM, "'shape'", "[2, 8, 4]", "[1, 8, 4]"]),
        (lambda h: h[SSM].update(shape=[1 << 40] * 3), [SSM, "'shape'"]),
        (lambda h: h[SSM].update(shape=[]), [SSM, "'shape'"]),
        (lambda h: h[SSM].update(data_offsets=[0, 1 << 31]), [SSM, "'data_offsets'"]),
        (lambda h: h[SSM].update(data_offsets=[-128, 0]), [SSM, "'data_offsets'"]),
        (lambda h: h[SSM].update(data_offsets=[128]), [SSM, "'data_offsets'"]),
        (lambda h: h[SSM].update(data_offsets=[40, 168]), [SSM, "data_offsets", "40", "168"]),  # of ssm 0
        (lambda h: h[SSM].update(data_offsets=[64, 192]), [SSM, "data_offsets", "64", "168"]),
        (lambda h: h[CONV].update(data_offsets=[312, 328]), ["data_offsets", "312", "296"]),
        (lambda h: h[CONV].update(data_offsets=[4096, 4112]), ["data_offsets", "312", "296"]),
    ],
)  # fmt: skip
def test_a_header_that_was_not_saved_is_refused(
    manifest: Manifest, file: Path, change: Change, parts: list[str]
) -> None:
    rewrite(file, change)
    with refused(*parts, "--save-state"):
        load_states(file, NumpyEngine(), manifest)


@pytest.mark.parametrize("length", [0, 1 << 16, MAX_HEADER_BYTES + 1, (1 << 64) - 1])
def test_a_header_that_is_too_large_is_refused_unread(manifest: Manifest, file: Path, length: int) -> None:
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    with file.open("r+b") as opened:
        opened.truncate(max(length + 64, 0) if length == MAX_HEADER_BYTES + 1 else file.stat().st_size)
    tracemalloc.start()
    with refused("holds no states", f"a header of {length} bytes"):
        load_states(file, NumpyEngine(), manifest)
    assert tracemalloc.get_traced_memory()[1] < 1 << 17
    tracemalloc.stop()


@pytest.mark.parametrize("content", [b"[]", b"{", b"{}" * 9, b'{"a":1,"a":1}', b"\xff" * 9, b"[" * 99999])
def test_a_header_that_is_no_json_object_is_refused(
    manifest: Manifest, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "states"
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    with refused("JSON"):
        load_states(path, NumpyEngine(), manifest)
