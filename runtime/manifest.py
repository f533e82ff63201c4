"""`manifest.json` of a bundle and `export.json` of an export: read, verified, written.

`open_folder` is the only way into such a directory: it takes the current schema only, checks every field,
then every file's kind, size and sha256 (held_files.py); only then may a model or a tokenizer be parsed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, cast

from quamba_export.runtime.engine_record import EngineRecord, PreparedRecord, parse_engine, parse_prepared
from quamba_export.runtime.fields import Fields
from quamba_export.runtime.folder_check import (
    MANIFEST_NAMES,
    MAX_BYTES,
    PLUGIN_SOURCES,
    SIGNATURE,
    WEIGHTS,
    FileEntry,
    check_names,
    entry_of,
    find_manifest,
    integrity_error,
)
from quamba_export.runtime.held_files import HeldFiles
from quamba_export.runtime.self_test import SelfTest, parse_self_test
from quamba_export.runtime.signature import check_signed, signed_digests

SCHEMA_VERSION = 1
Kind = Literal["bundle", "export"]
REMAKE = {
    "manifest.json": "make it anew: quamba-export build export/ --target cpu -o bundle/",
    "export.json": "make it anew: quamba-export export CHECKPOINT --calibration calibration/ -o export/",
}
BACKENDS = ("onnxruntime", "tensorrt")
BYTES_OF_DTYPE = {"int8": 1, "float16": 2, "float32": 4}
ROW_SCALES = "past_ssm_scales."
MAX_VOCAB = 1 << 24
MAX_DIMENSION = 1 << 20
MAX_STATE_BYTES = 4 << 30  # one sequence, all layers


@dataclass(frozen=True)
class StateTensor:
    """One recurrent state: the graph's input and output name, and its dtype and shape without the batch."""

    past: str
    present: str
    dtype: str  # "int8", "float16" or "float32"
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one sequence's state."""
        size = BYTES_OF_DTYPE[self.dtype]
        for dimension in self.shape:
            size *= dimension
        return size


@dataclass(frozen=True)
class Manifest:
    """A bundle or an export whose files have been verified.

    An export is what a CPU bundle is made of, so it has target "cpu" and backend "onnxruntime".
    """

    kind: Kind
    producer: str
    target: str
    backend: str
    qformat: str
    config: Mapping[str, Any]  # MambaConfig's fields; the runtime reads vocab_size only
    eos_token_id: int
    states: tuple[StateTensor, ...]
    files: Mapping[str, FileEntry]
    sources: Mapping[str, str | None]  # sha256 by "checkpoint", "calibration" (null for float), "export"
    engine: EngineRecord | None = None  # of a bundle whose backend is "tensorrt"
    prepared: PreparedRecord | None = None  # of an export that holds a plugin library
    portable: str | None = (
        None  # of one that holds engine graphs and plugin sources: digest of what it was made of
    )
    self_test: SelfTest | None = None  # of a bundle; those of earlier releases have none
    digest: str = ""  # sha256 of the manifest file itself; identifies everything above

    @property
    def export_digest(self) -> str:
        """What identifies the export that this is, was prepared from, or was built of."""
        if self.kind == "bundle":
            return cast(str, self.sources["export"])
        return self.portable or (self.digest if self.prepared is None else self.prepared.export)

    @property
    def vocab_size(self) -> int:
        """V: rows of the embedding, padding included."""
        return cast(int, self.config["vocab_size"])


def read_manifest(folder: Path | str, require_signature: Path | None = None) -> Manifest:
    """Read and verify a bundle/ or export/ directory; see open_folder."""
    with open_folder(folder, require_signature) as (manifest, _):
        return manifest


@contextmanager
def open_folder(
    folder: Path | str, require_signature: Path | None = None
) -> Iterator[tuple[Manifest, HeldFiles]]:
    """Read and verify a bundle/ or export/ directory, and hold its files to load them from.

    require_signature: a public key or certificate, PEM, by which model.sig must have signed every file; then
    nothing is parsed before its digest was found in there. Raises QuambaError: exit 3 for a directory that is
    neither, or of another schema; exit 4 where a file was added, removed, changed or replaced by something
    that is no plain file, or is not what was signed.
    """
    folder = Path(folder)
    name = find_manifest(folder)
    with HeldFiles(folder) as files:
        signed = None if require_signature is None else signed_digests(files, require_signature)
        content = files.content(name)
        present = {name: sha256(content).hexdigest()}
        if signed is not None:
            check_signed(folder, {name: signed.get(name, "")}, present)
        manifest = parse_manifest(content, folder / name)
        files.check(name, manifest.files)
        if signed is not None:
            check_signed(folder, signed, present | {n: entry.sha256 for n, entry in manifest.files.items()})
        yield manifest, files


def parse_manifest(content: bytes, path: Path) -> Manifest:
    """The manifest in the bytes of `path`, every field checked. Raises QuambaError (exit 3)."""
    fields = Fields.from_json(content, str(path), fix=REMAKE[path.name])
    kind: Kind = "bundle" if path.name == "manifest.json" else "export"
    fields.version("schema_version", SCHEMA_VERSION)
    fields.choice("kind", (kind,))
    bundle = kind == "bundle"
    config, files = fields.object("config"), fields.object("files")
    vocab_size = config.integer("vocab_size", 1, MAX_VOCAB)
    manifest = Manifest(
        kind=kind,
        producer=fields.text("producer"),
        target=fields.text("target") if bundle else "cpu",
        backend=fields.choice("backend", BACKENDS) if bundle else "onnxruntime",
        qformat=fields.text("qformat"),
        config=config.values,
        eos_token_id=fields.integer("eos_token_id", 0, vocab_size - 1),
        states=parse_states(fields),
        files={name: parse_file(files.object(name)) for name in files.values},
        sources=parse_sources(fields.object("sources")) if bundle else parse_export_sources(fields),
        digest=sha256(content).hexdigest(),
    )
    if (manifest.backend == "tensorrt") != ("decode.engine" in manifest.files):
        raise fields.error("backend", manifest.backend, "the one whose model is among the files")
    if manifest.backend == "tensorrt":
        size = manifest.files[WEIGHTS].size if WEIGHTS in manifest.files else 0
        manifest = replace(manifest, engine=parse_engine(fields.object("engine"), size))
    if not bundle and "libquamba_plugins.so" in manifest.files:
        manifest = replace(manifest, prepared=parse_prepared(fields.object("prepared")))
    if not bundle and PLUGIN_SOURCES in manifest.files:
        manifest = replace(manifest, portable=parse_portable(fields.object("portable")))
    if bundle and "self_test" in fields.values:
        manifest = replace(manifest, self_test=parse_self_test(fields.object("self_test"), vocab_size))
    fields.end()
    return manifest


def parse_sources(fields: Fields) -> dict[str, str | None]:
    """The digests of what a bundle came from."""
    sources = {
        "checkpoint": fields.digest("checkpoint"),
        "calibration": fields.optional_digest("calibration"),
        "export": fields.digest("export"),
    }
    fields.end()
    return sources


def parse_export_sources(fields: Fields) -> dict[str, str | None]:
    """The same two of an export, which keeps them at the top level."""
    return {
        "checkpoint": fields.digest("checkpoint_digest"),
        "calibration": fields.optional_digest("calibration_digest"),
    }


def parse_portable(fields: Fields) -> str:
    """The digest of the export that a portable bundle was made of."""
    digest = fields.digest("export")
    fields.end()
    return digest


def parse_states(fields: Fields) -> tuple[StateTensor, ...]:
    """The state table: `past_{conv,ssm}_states.{i}` -> `present_...` for every layer i, each once, and where
    a dynamic int8 state has its scales in a tensor of their own `past_ssm_scales.{i}` as well.
    """
    states = tuple(parse_state(entry) for entry in fields.objects("states"))
    dynamic = any(state.past.startswith(ROW_SCALES) for state in states)
    kinds = ("conv_states", "ssm_states", *(("ssm_scales",) if dynamic else ()))
    layers, found = range(len(states) // len(kinds)), {(state.past, state.present) for state in states}
    wanted = {(f"past_{kind}.{i}", f"present_{kind}.{i}") for kind in kinds for i in layers}
    if not states or len(states) != len(wanted) or found != wanted:
        odd = sorted(found - wanted) or sorted(wanted - found) or "no states, or one of them twice"
        raise fields.error("states", str(odd), f"one each of {', '.join(kinds)} for layers 0, 1, ...")
    if (total := sum(state.nbytes for state in states)) > MAX_STATE_BYTES:
        raise fields.error("states", f"{total} bytes a sequence", f"at most {MAX_STATE_BYTES}")
    return states


def parse_state(fields: Fields) -> StateTensor:
    state = StateTensor(
        past=fields.text("past"),
        present=fields.text("present"),
        dtype=fields.choice("dtype", tuple(BYTES_OF_DTYPE)),
        shape=fields.integers("shape", 1, MAX_DIMENSION),
    )
    fields.end()
    return state


def parse_file(fields: Fields) -> FileEntry:
    entry = FileEntry(fields.digest("sha256"), fields.integer("size", 0, max(MAX_BYTES.values())))
    fields.end()
    return entry


def files_of(folder: Path | str) -> dict[str, dict[str, Any]]:
    """Name -> {sha256, size} of every file of a directory but its manifest, as manifests hold it.

    Raises QuambaError (exit 4) for what a reader would refuse: a name not allowed, a link, a directory.
    """
    folder = Path(folder)
    names = sorted(set(os.listdir(folder)) - {*MANIFEST_NAMES, SIGNATURE})
    if odd := [name for name in names if name not in MAX_BYTES]:
        raise integrity_error(
            f"{folder} holds a file that may not be there", found=odd[0], allowed=", ".join(MAX_BYTES)
        )
    return {name: asdict(entry_of(folder / name)) for name in names}


def manifest_for(
    folder: Path | str,
    export: Manifest,
    *,
    target: str,
    backend: str,
    producer: str,
    engine: EngineRecord | None = None,
    self_test: SelfTest | None = None,
) -> Manifest:
    """The manifest of a bundle whose files stand in `folder`, made from a verified export.

    target: the name of a target; backend: one of BACKENDS; producer: program and version that wrote the
    bundle; engine: of a "tensorrt" one; self_test: what the bundle's own model gave.
    """
    return Manifest(
        kind="bundle",
        producer=producer,
        target=target,
        backend=backend,
        qformat=export.qformat,
        config=export.config,
        eos_token_id=export.eos_token_id,
        states=export.states,
        files={name: FileEntry(**entry) for name, entry in files_of(folder).items()},
        sources={**export.sources, "export": export.export_digest},
        engine=engine,
        self_test=self_test,
    )


def write_manifest(manifest: Manifest, folder: Path | str) -> Path:
    """Check that `read_manifest` will take it, write `manifest.json` atomically, return its path."""
    path = Path(folder) / "manifest.json"
    record = {"schema_version": SCHEMA_VERSION, **asdict(manifest)}
    del record["digest"], record["prepared"], record["portable"]
    for optional in ("engine", "self_test"):
        if record[optional] is None:
            del record[optional]
    content = (json.dumps(record, indent=2) + "\n").encode()
    check_names(path.parent, path.name, parse_manifest(content, path).files, set(os.listdir(folder)))
    partial = path.with_name(".manifest.json.partial")
    partial.write_bytes(content)
    partial.replace(path)
    return path
