"""What a folder on disk is, and export/ read back with every check that its users need."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quamba_export.runtime.errors import ExitCode, QuambaError

Kind = Literal["checkpoint", "calibration", "export", "bundle"]
EXPORT_SCHEMA_VERSION = 1
EXPORT_KEYS = frozenset(
    ("schema_version", "kind", "producer", "checkpoint_digest", "calibration_digest", "qformat", "config")
    + ("eos_token_id", "states", "files")
)
MAX_MANIFEST_BYTES = 4 << 20
HASH_CHUNK_BYTES = 1 << 20


def artefact_kind(path: Path) -> Kind:
    """Which of the four folders `path` is, by the manifest in it; anything else may be a checkpoint or a hub id."""
    if (path / "manifest.json").is_file():
        return "bundle"
    if (path / "export.json").is_file():
        return "export"
    if (path / "calibration.json").is_file():
        return "calibration"
    return "checkpoint"


@dataclass(frozen=True)
class Export:
    """A checked export/ directory. Field names are export.json's."""

    path: Path
    producer: str
    checkpoint_digest: str
    calibration_digest: str | None  # None for a float export
    qformat: str
    config: dict[str, Any]
    eos_token_id: int
    states: list[dict[str, Any]]
    files: dict[str, dict[str, Any]]

    @property
    def model_path(self) -> Path:
        return self.path / "model.onnx"


def read_export(path: Path) -> Export:
    """Read export/, checking the schema and every file's sha256.

    Raises QuambaError: exit 3 for a folder that is no export of this schema, 4 where a file differs from its digest.
    """
    manifest = read_json_object(path / "export.json")
    fix = "make it anew with `quamba-export export CHECKPOINT --calibration calibration/ -o export/`"
    version = manifest.get("schema_version")
    if manifest.get("kind") != "export" or version != EXPORT_SCHEMA_VERSION:
        raise QuambaError(
            f"{path / 'export.json'} is not an export of this version",
            found=f"kind {manifest.get('kind')!r}, schema_version {version!r}",
            allowed=f"kind 'export', schema_version {EXPORT_SCHEMA_VERSION}",
            fix=fix,
        )
    if missing := sorted(EXPORT_KEYS - set(manifest)):
        raise QuambaError(f"{path / 'export.json'} lacks keys", found=f"no {', '.join(missing)}", fix=fix)
    verify_files(path, manifest["files"], fix)
    fields = {key: manifest[key] for key in EXPORT_KEYS - {"schema_version", "kind"}}
    return Export(path=path, **fields)


@contextmanager
def written_directory(target: Path, kind: Kind) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the body ends without an error.

    An older artefact of the same kind is replaced; any other folder that holds something is refused (exit 2).
    """
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and artefact_kind(target) != kind)):
        raise QuambaError(
            f"{target} is in the way",
            found="a file" if target.is_file() else f"a folder that is not an earlier {kind}",
            allowed=f"no folder, an empty one, or an earlier {kind}",
            fix="choose another -o",
            code=ExitCode.USAGE,
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        work.chmod(0o755)
        new = work / "new"
        new.mkdir()
        yield new
        if target.exists():
            target.rename(work / "old")
        new.rename(target)
    finally:
        shutil.rmtree(work)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most 4 MiB."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(MAX_MANIFEST_BYTES))
    except FileNotFoundError as error:
        raise QuambaError(f"{path} does not exist", found="no such file") from error
    except ValueError as error:
        raise QuambaError(
            f"{path} is not JSON", found=str(error), allowed="a JSON object up to 4 MiB"
        ) from error
    if not isinstance(value, dict):
        raise QuambaError(f"{path} is not a JSON object", found=type(value).__name__, allowed="a JSON object")
    return value


def verify_files(folder: Path, files: dict[str, dict[str, Any]], fix: str) -> None:
    """Compare every listed file's size and sha256 with its entry; raise QuambaError (exit 4) at the first difference."""
    for name, entry in files.items():
        if Path(name).name != name:
            raise QuambaError(
                f"{folder} lists a file outside itself", found=name, code=ExitCode.INTEGRITY, fix=fix
            )
        path = folder / name
        if not path.is_file() or path.is_symlink():
            raise QuambaError(f"{path} is missing", found="no regular file", code=ExitCode.INTEGRITY, fix=fix)
        found = file_entry(path)
        if found != {"sha256": entry.get("sha256"), "size": entry.get("size")}:
            raise QuambaError(
                f"{path} was changed after it was written",
                found=f"{found['size']} bytes, sha256 {found['sha256'][:12]}...",
                allowed=f"{entry.get('size')} bytes, sha256 {str(entry.get('sha256'))[:12]}...",
                fix=fix,
                code=ExitCode.INTEGRITY,
            )


def file_entry(path: Path) -> dict[str, Any]:
    """{sha256, size in bytes} of a file, as manifests hold it."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return {"sha256": digest.hexdigest(), "size": size}
