"""A bundle of the tiny recurrent model, and how a test changes it and sees it refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_recurrent import write_tiny_export

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import manifest_for, read_manifest, write_manifest


def write_tiny_bundle(parent: Path) -> Path:
    """parent/bundle, for the CPU."""
    folder = write_tiny_export(parent / "bundle")
    source = read_manifest(folder)
    (folder / "export.json").unlink()
    write_manifest(manifest_for(folder, source, target="cpu", backend="onnxruntime", producer="test"), folder)
    return folder


def refused(folder: Path, text: str, code: ExitCode) -> QuambaError:
    with pytest.raises(QuambaError, match=text) as caught:
        read_manifest(folder)
    assert caught.value.code is code
    assert caught.value.fix
    return caught.value


def change(folder: Path, edit: Callable[[dict[str, Any]], object], name: str = "manifest.json") -> None:
    record = json.loads((folder / name).read_text())
    edit(record)
    (folder / name).write_text(json.dumps(record))
