"""A model repository for Triton Inference Server, of a TensorRT bundle and the export it was built of.

Triton's TensorRT backend gives a plan the inputs of a request and the states of its sequence, nothing else:
no weights.bin, and no call that puts plugins into TensorRT's registry. So this builds another plan on the GPU
of this machine, with the weights and the bundle's plugin library inside.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from quamba_export.exporter.artefacts import artefact_kind, copy_checked
from quamba_export.exporter.bundle.triton_config import config_of
from quamba_export.exporter.console import say
from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.fields import MAX_TEXT
from quamba_export.runtime.manifest import Manifest, read_manifest
from quamba_export.runtime.output_path import check_outside

MAX_PLAN_WEIGHTS = 2**31 - 2**24  # bytes: the graph goes to TensorRT as one protobuf message, below 2 GiB
README = """# {name}: a model repository for Triton Inference Server

Made by {producer} of a bundle for {target} (GPU sm_{sm}, TensorRT {tensorrt}, {qformat}).

    tritonserver --model-repository=$PWD/models --backend-config=tensorrt,version-compatible=true

The server's TensorRT must be {tensorrt}{later}, its GPU sm_{sm}: NVIDIA's support matrix names the release of
Triton. The plan holds the plugin library, which is code; `version-compatible=true` is Triton's leave to run
code from a plan. A server that loads plugins into TensorRT's registry itself takes
`plugins/libquamba_plugins.so`; LD_PRELOAD or `plugins=` of the backend alone register nothing.

A request carries `input_ids`, INT64 (1, L) with L up to {longest}, and a sequence id; the first one has
sequence_start, the last one sequence_end. Longer prompts go in pieces of the same sequence. `logits`, FP32
(1, 1, {vocabulary}), are those of the last token. The states are kept by Triton: {states} tensors,
{state_bytes} bytes a sequence. `tokenizer.json` makes ids of text, for the client.
"""


@dataclass(frozen=True)
class Repository:
    """The `--json` object of `export-triton`."""

    path: str
    model: str
    tensorrt: str
    sm: int
    plan_bytes: int


def write_repository(bundle: Path, export: Path, out: Path, name: str) -> Repository:
    """Write models/{name}/config.pbtxt and 1/model.plan, plugins/, tokenizer.json and a README at `out`.

    Raises QuambaError: exit 2 for an `out` that is not free or a bad name, 4 for another export than the
    bundle's, 5 for a bundle without engines, another GPU or another TensorRT, 6 for too large a model.
    """
    check_free(out, name)
    manifest, source = read_manifest(bundle), read_manifest(export)
    record = manifest.engine
    if record is None:
        raise QuambaError(
            f"{bundle} has no engines, and Triton is to run one",
            found=f"a {artefact_kind(bundle)} for {manifest.target}",
            allowed="a bundle/ built for a GPU",
            fix="quamba-export build export/ --target TARGET -o bundle/",
            code=ExitCode.INCOMPATIBLE,
        )
    check_source(manifest, source, bundle, export)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        new = Path(work) / "new"
        version = new / "models" / name / "1"
        version.mkdir(parents=True)
        (new / "plugins").mkdir()
        plugins = new / "plugins/libquamba_plugins.so"
        copy_checked(bundle, manifest, plugins.parent, [plugins.name])  # what is loaded below
        say("plan: building one with weights and plugins inside")
        plan = built_plan(export, record, plugins)
        (version / "model.plan").write_bytes(plan)
        (version.parent / "config.pbtxt").write_text(config_of(name, manifest, record), encoding="utf-8")
        (new / "README.md").write_text(readme(name, manifest, record), encoding="utf-8")
        if "tokenizer.json" in manifest.files:
            copy_checked(bundle, manifest, new, ["tokenizer.json"])
        new.rename(out)
    return Repository(str(out), name, record.tensorrt, record.sm, len(plan))


def check_free(out: Path, name: str) -> None:
    check_outside(out)
    taken = os.path.lexists(out)
    if taken or not (name.isascii() and name.isidentifier()) or len(name) > MAX_TEXT:
        raise QuambaError(
            f"model {name!r} cannot be written to {out}",
            found="a folder or file in the way" if taken else ascii(name),
            allowed="a path that is free, and letters, digits and _",
            fix="choose another -o or --name",
            code=ExitCode.USAGE,
        )


def check_source(manifest: Manifest, source: Manifest, bundle: Path, export: Path) -> None:
    """The export must be the bundle's (exit 4), and small enough for one message (exit 6)."""
    if manifest.sources["export"] != source.export_digest:
        raise QuambaError(
            f"{bundle} was not built of {export}",
            found=f"an export of digest {source.export_digest}",
            allowed=f"digest {manifest.sources['export']}",
            fix="name the export/ that the bundle was built of",
            code=ExitCode.INTEGRITY,
        )
    if (size := source.files["model.onnx.data"].size) > MAX_PLAN_WEIGHTS:
        raise QuambaError(
            "the model is too large for a plan with its weights inside",
            found=f"{size} bytes of weights",
            allowed=f"at most {MAX_PLAN_WEIGHTS}",
            fix="`quamba-export serve`, which keeps the weights outside; or narrower weights",
            code=ExitCode.OUT_OF_SPACE,
        )


def built_plan(export: Path, record: EngineRecord, plugins: Path) -> bytes:
    """One plan for prompts and single tokens. Raises QuambaError (exit 5) on another GPU or TensorRT."""
    from quamba_export.exporter.tensorrt.build import BuildOptions, Profile, plan_with_weights
    from quamba_export.runtime.cuda import Cuda
    from quamba_export.runtime.engine_checks import check_contracts, check_machine
    from quamba_export.runtime.tensorrt_library import import_builder, load_plugins

    check_machine(record, import_builder().__version__, Cuda().sm, lean=False)
    check_contracts(record, load_plugins(plugins).contracts)
    profile = Profile("prefill", 1, record.prefill_length, record.max_batch)
    options = BuildOptions(plugins, version_compatible=record.version_compatible, plugins_inside=True)
    return plan_with_weights(export, profile, options)


def readme(name: str, manifest: Manifest, record: EngineRecord) -> str:
    return README.format(
        name=name,
        producer=manifest.producer,
        target=manifest.target,
        sm=record.sm,
        tensorrt=record.tensorrt,
        later=" or later of its major version" if record.version_compatible else "",
        qformat=manifest.qformat,
        longest=record.prefill_length,
        vocabulary=manifest.vocab_size,
        states=len(manifest.states),
        state_bytes=sum(state.nbytes for state in manifest.states),
    )
