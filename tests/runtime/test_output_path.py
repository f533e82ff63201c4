"""Paths that a result may be written to."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from refusals import refused

from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.output_path import check_outside, check_writable


@pytest.mark.parametrize(("name", "kind"), [("manifest.json", "bundle"), ("export.json", "export")])
def test_nothing_is_written_into_a_bundle_or_export(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text(json.dumps({"schema_version": 1, "kind": kind}))
    for path in (tmp_path / "states", tmp_path / "deep/er/states"):
        with refused("would lie in a bundle or export", code=ExitCode.USAGE):
            check_outside(path)
    check_outside(tmp_path)  # beside what is around it


@pytest.mark.parametrize(
    "content", ['{"name": "an app"}', '{"kind": "export"}', "[]", "{", "[" * 100_000, ""]
)
def test_a_manifest_of_something_else_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    check_writable(tmp_path / "states")


def test_what_a_command_printed_is_no_obstacle(tmp_path: Path) -> None:
    """`export --json > export.json`, as `make demo` does it."""
    (tmp_path / "export.json").write_text('{"kind": "export", "path": "export", "files": {}}')
    check_writable(tmp_path / "states")


def test_what_is_no_file_is_not_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "manifest.json")  # nobody waits for its other end
    check_writable(tmp_path / "new")
    for path, found in (
        (tmp_path / "pipe", "a FIFO"),
        (tmp_path, "a directory"),
        (tmp_path / "no/new", "no directory"),
    ):
        with refused("cannot be written", found, code=ExitCode.USAGE):
            check_writable(path)
