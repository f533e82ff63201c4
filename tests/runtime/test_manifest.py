"""Manifests: what is written is read back, and a hostile directory for every rule."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import change, refused, write_tiny_bundle
from tiny_recurrent import write_tiny_export

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import files_of, read_manifest, write_manifest


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_tiny_export(tmp_path / "export")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path)


def test_a_bundle_says_what_it_was_made_of(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert (manifest.kind, manifest.target, manifest.backend, manifest.qformat) == (
        "bundle",
        "cpu",
        "onnxruntime",
        "w8a8",
    )
    assert manifest.sources["checkpoint"] == "a" * 64
    assert manifest.sources["calibration"] is None
    assert [state.shape for state in manifest.states] == [(8, 2), (8, 2), (8, 4), (8, 4)]
    assert manifest.states[0].nbytes == 16
    assert len(manifest.digest) == 64


def test_an_export_is_read_like_a_cpu_bundle(export: Path) -> None:
    manifest = read_manifest(export)
    assert (manifest.kind, manifest.target, manifest.backend) == ("export", "cpu", "onnxruntime")


def test_nothing_is_written_that_would_not_be_read(bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(QuambaError, match="'eos_token_id'"):
        write_manifest(replace(read_manifest(bundle), eos_token_id=-1), bundle)
    assert (bundle / "manifest.json").read_bytes() == before


def test_files_of_lists_sizes_and_digests(bundle: Path) -> None:
    files = files_of(bundle)
    assert "manifest.json" not in files
    assert files["config.json"]["size"] == 2


def test_a_directory_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    assert (
        "no such directory" in refused(tmp_path / "nowhere", "neither a bundle", ExitCode.INVALID_INPUT).found
    )
    assert "no manifest.json" in refused(tmp_path, "neither a bundle", ExitCode.INVALID_INPUT).found
    (tmp_path / "file").write_text("")
    (tmp_path / "config.json").touch()
    assert "quamba-export calibrate" in refused(tmp_path, "neither a bundle", ExitCode.INVALID_INPUT).fix
    (tmp_path / "calibration.json").touch()
    assert f"--calibration {tmp_path}" in refused(tmp_path, "neither a bundle", ExitCode.INVALID_INPUT).fix
    refused(tmp_path / "file", "neither a bundle", ExitCode.INVALID_INPUT)


MALFORMED = {
    "no JSON": b"{",
    "not UTF-8": b'{"kind": "\xff"}',
    "no object": b"[]",
    "a key twice": b'{"kind": "bundle", "kind": "bundle"}',
    "a number that JSON lacks": b'{"schema_version": Infinity}',
    "too deep": b"[" * 200_000,
    "lists in a config": b'{"config": ' + b"[" * 8 + b"]" * 8 + b"}",
    "objects in a config": b'{"config": ' + b'{"a":' * 8 + b"1" + b"}" * 8 + b"}",
    "a number beyond every float": b'{"config": {"norm_epsilon": 1e999}}',
    "a number that is none": b'{"config": {"norm_epsilon": NaN}}',
    "a key twice, far inside": b'{"files": {"model.onnx": {"size": 1, "size": 2}}}',
    "half a surrogate pair in UTF-8": b'{"kind": "\xed\xa0\x80"}',
    "UTF-16": '{"kind": "bundle"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"kind": "bundle"}',
    "nothing": b"",
    "zero bytes": bytes(64),
    "more behind it": b'{"kind": "bundle"} {}',
    "a number too long to parse": b'{"schema_version": ' + b"1" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_manifest_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    refused(bundle, "JSON", ExitCode.INVALID_INPUT)


@pytest.mark.parametrize("version", [0, 2, -1, 1.0, "1", True, None])
def test_another_schema_version_names_the_command_that_makes_it_anew(bundle: Path, version: object) -> None:
    change(bundle, lambda record: record.update(schema_version=version))
    error = refused(bundle, "'schema_version'", ExitCode.INVALID_INPUT)
    assert "quamba-export build" in error.fix


BAD_FIELDS: dict[str, list[object]] = {
    "kind": ["export", "", 1],
    "producer": ["", 3, "x" * 5000, "two\nlines", "\x1b[31m"],
    "target": [None, ""],
    "backend": ["tensorrt9", "", ["onnxruntime"]],
    "qformat": [8, ""],
    "config": [
        [],
        {},
        {"vocab_size": 0},
        {"vocab_size": "8192"},
        {"vocab_size": 1 << 30},
        {"vocab_size": True},
    ],
    "eos_token_id": [-1, 1 << 20, 0.0, None],
    "sources": [{}, [], {"checkpoint": "A" * 64, "calibration": None, "export": "a" * 64}],
    "files": [[], None, {"model.onnx": []}, {"model.onnx": {"sha256": "x", "size": 1}}],
    "states": [[], {}, [1], [{}]],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in BAD_FIELDS.items() for value in values]
)
def test_a_field_of_the_wrong_type_or_range_is_named(bundle: Path, key: str, value: object) -> None:
    change(bundle, lambda record: record.update({key: value}))
    with pytest.raises(QuambaError, match=r"manifest\.json"):
        read_manifest(bundle)


@pytest.mark.parametrize("key", ["kind", "config", "states", "files", "sources", "eos_token_id"])
def test_a_missing_field_is_named(bundle: Path, key: str) -> None:
    change(bundle, lambda record: record.pop(key))
    refused(bundle, f"'{key}'", ExitCode.INVALID_INPUT)


def test_an_unknown_field_is_named(bundle: Path) -> None:
    change(bundle, lambda record: record.update(extra=1))
    refused(bundle, "'extra'", ExitCode.INVALID_INPUT)


STATE_EDITS = {
    "a state twice": lambda states: states.append(states[0]),
    "a layer without its ssm state": lambda states: states.pop(),
    "a wrong name": lambda states: states[0].update(past="past_conv_states.9"),
    "names of two layers": lambda states: states[0].update(present="present_conv_states.1"),
    "another dtype": lambda states: states[0].update(dtype="float64"),
    "no shape": lambda states: states[0].update(shape=[]),
    "an empty dimension": lambda states: states[0].update(shape=[8, 0]),
    "a dimension that is no integer": lambda states: states[0].update(shape=[8, 2.0]),
    "more bytes than any model has": lambda states: states[2].update(shape=[1 << 20, 1 << 20]),
    "an unknown key": lambda states: states[0].update(layout="NCW"),
}


@pytest.mark.parametrize("edit", STATE_EDITS.values(), ids=STATE_EDITS.keys())
def test_a_wrong_state_table_is_refused(bundle: Path, edit: Callable[[list[Any]], object]) -> None:
    change(bundle, lambda record: edit(record["states"]))
    refused(bundle, "states", ExitCode.INVALID_INPUT)
