"""export/ -> bundle/: tokenizer and configs with the graph (CPU) or engines built of it (TensorRT), under a
manifest of digests.
"""

from __future__ import annotations

import platform
import shutil
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path

from quamba_export.calib.output_directory import written_directory
from quamba_export.exporter.artefacts import (
    artefact_kind,
    copy_checked,
    recorded_scan_input,
    recorded_smoothing,
)
from quamba_export.exporter.console import say
from quamba_export.exporter.plugin_build.prepare_device import LIBRARY, is_prepared, prepare_for_device
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import GRAPHS, PLUGIN_SOURCES
from quamba_export.runtime.manifest import (
    Manifest,
    manifest_for,
    open_folder,
    read_manifest,
    write_manifest,
)
from quamba_export.runtime.self_test import SelfTest, self_test_of
from quamba_export.targets.target import load_target
from quamba_export.targets.target_file import Target

WITH_KERNELS = ("w8a8", "w4a8", "w4a16", "w8a16")  # the widths whose ops the plugin library holds


@dataclass(frozen=True)
class Build:
    """The `--json` object of `build`."""

    bundle: str
    target: str
    backend: str
    kind: str  # "bundle", or "export": one that `build` on the device makes the bundle of
    files: dict[str, int]  # bytes by name
    size: int  # bytes of all files


@dataclass(frozen=True)
class EngineChoices:
    """What a user may choose of a TensorRT build; None takes the target's value, or makes the library."""

    plugins: Path | None = None
    max_batch: int | None = None
    prefill_length: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    jetpack: int | None = None


DEFAULTS = EngineChoices()


def build_bundle(export: Path, target_name: str, out: Path, choices: EngineChoices = DEFAULTS) -> Build:
    """Make a bundle of export/ for a target; TensorRT engines are built on the GPU of this machine.

    For a Jetson on another machine: an export/ with the plugin library, of which `build` there makes the
    bundle. Raises QuambaError: exit 2 for a choice that this build has no use for, 5 for an unknown target, a
    machine that is not it or widths that it has no kernels for, 4 for a changed export, 3 for what is no
    export, 9 for engines that compute something else.
    """
    target = load_target(target_name)
    _check_export(export)
    elsewhere = target.jetpack > 0 and platform.machine() != "aarch64"
    _check_choices(choices, target, elsewhere)
    with open_folder(export) as (source, files):
        if target.backend == "tensorrt":
            _check_kernels(source, target.name)
            _check_no_study(export, target.name)
        if elsewhere:
            release = choices.jetpack or target.jetpack
            return _built(out, target, prepare_for_device(export, target, release, out, choices.plugins))
        if choices.plugins is None and is_prepared(export, source, target):
            choices = replace(choices, plugins=files.location(LIBRARY))  # the bytes that were verified
        with written_directory(out, "bundle") as folder:
            manifest = _write_bundle(export, source, target, folder, choices)
            files.check_unchanged()
    return _built(out, target, manifest)


def _write_bundle(
    export: Path, source: Manifest, target: Target, folder: Path, choices: EngineChoices
) -> Manifest:
    """Everything of a bundle into `folder`."""
    plans = target.backend == "tensorrt"
    left_out = (LIBRARY, PLUGIN_SOURCES, *GRAPHS.values(), *(["model.onnx"] if plans else []))
    copy_checked(export, source, folder, [name for name in source.files if not name.startswith(left_out)])
    record: EngineRecord | None = None
    if plans:
        record, self_test = write_engines(export, source, target, folder, choices)
    else:
        self_test = cpu_self_test(folder, source)
    manifest = manifest_for(
        folder,
        source,
        target=target.name,
        backend=target.backend,
        producer=f"quamba-export {version('quamba-export')}",
        engine=record,
        self_test=self_test,
    )
    write_manifest(manifest, folder)
    return manifest


def build_portable(export: Path, out: Path) -> Build:
    """Make an export/ that carries engine graphs and plugin sources, of which a device builds its bundle.

    Raises QuambaError: exit 5 for widths without kernels, 4 for a changed export, 3 for what is no export.
    """
    from quamba_export.exporter.bundle.portable import write_portable

    _check_export(export)
    source = read_manifest(export)
    _check_kernels(source, "TensorRT")
    _check_no_study(export, "TensorRT")
    made = write_portable(export, source, out)
    files = {name: entry.size for name, entry in made.files.items()}
    return Build(str(out), "any", "tensorrt", made.kind, files, sum(files.values()))


def _check_export(export: Path) -> None:
    """Refuse (exit 3) what is no export/."""
    if artefact_kind(export) != "export":
        raise QuambaError(
            f"{export} is not an export/ directory",
            found=f"a {artefact_kind(export)}" if export.is_dir() else "no such directory",
            allowed="a directory that `quamba-export export` wrote",
            fix="quamba-export export CHECKPOINT --calibration calibration/ -o export/",
        )


def cpu_self_test(folder: Path, source: Manifest) -> SelfTest:
    """What the copied graph gives in ONNX Runtime on this machine."""
    from quamba_export.runtime.engine_ort import OrtEngine

    return self_test_of(OrtEngine(folder / "model.onnx", source.states, source.vocab_size))


def _check_choices(choices: EngineChoices, target: Target, elsewhere: bool) -> None:
    """Refuse (exit 2) what was chosen and would change nothing."""
    given = {field.name for field in fields(choices) if getattr(choices, field.name) != field.default}
    if elsewhere:
        useful, where = {"plugins", "jetpack"}, "here only the plugins are made"
    elif target.backend == "tensorrt":
        useful = {field.name for field in fields(choices)} - {"jetpack"}
        where = "the plugins are made for this machine"
    else:
        useful, where = set(), "it has no engines"
    if useless := given - useful:
        raise QuambaError(
            f"this build for {target.name} has no use for {_option(min(useless))}",
            found=where,
            allowed=", ".join(_option(name) for name in sorted(useful)) or "none of the options for engines",
            fix="give it to `quamba-export build` on the device" if elsewhere else "leave it out",
            code=ExitCode.USAGE,
        )


def _check_kernels(source: Manifest, target: str) -> None:
    """Refuse (exit 5) an export in widths that no engine computes, before anything is compiled."""
    if source.qformat not in WITH_KERNELS:
        raise QuambaError(
            f"{target} does not run {source.qformat}",
            found=f"an export made with --qformat {source.qformat}",
            allowed=", ".join(WITH_KERNELS),
            fix="use --target cpu, or export with one of these --qformat",
            code=ExitCode.INCOMPATIBLE,
        )


def _check_no_study(export: Path, target: str) -> None:
    """Refuse (exit 5) what `export --ssm-input` wrote, and a baseline: their ops have no kernels, and will
    have none.
    """
    if recorded_smoothing(export):
        raise QuambaError(
            f"{target} does not run smoothed models",
            found="an export of a calibration by a recipe with `smoothing`, a baseline",
            fix="use --target cpu, or calibrate by another recipe",
            code=ExitCode.INCOMPATIBLE,
        )
    if (mode := recorded_scan_input(export)) != "int8":
        raise QuambaError(
            f"{target} does not run studies of the scan's input",
            found=f"an export made with --ssm-input {mode}",
            allowed="int8",
            fix="use --target cpu, or export without --ssm-input",
            code=ExitCode.INCOMPATIBLE,
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _built(out: Path, target: Target, manifest: Manifest) -> Build:
    files = {name: entry.size for name, entry in manifest.files.items()}
    return Build(str(out), target.name, target.backend, manifest.kind, files, sum(files.values()))


def write_engines(
    export: Path, source: Manifest, target: Target, folder: Path, choices: EngineChoices
) -> tuple[EngineRecord, SelfTest]:
    """Weights, both engines and the plugins into `folder`; the engines have passed the gate.

    source: export/'s manifest. Raises QuambaError: exit 5 on another GPU, 9 for engines that compute
    something else than export/ does.
    """
    from quamba_export.exporter.plugin_build.library import plugin_library
    from quamba_export.exporter.plugin_build.sources import sources_of
    from quamba_export.exporter.tensorrt.build import BuildOptions, engines_from_export, profiles_for
    from quamba_export.exporter.tensorrt.engine_gate import check_engine
    from quamba_export.runtime.engine_tensorrt import PLUGINS, load_engine
    from quamba_export.runtime.tensorrt_library import import_builder

    import_builder()
    cuda = Cuda()
    if cuda.sm != target.sm:
        raise QuambaError(
            f"engines for {target.name} cannot be built on this machine",
            found=f"a GPU of sm_{cuda.sm}",
            allowed=f"sm_{target.sm}: {target.description}",
            fix="build on the target itself: TensorRT tunes a plan on the GPU that will run it",
            code=ExitCode.INCOMPATIBLE,
        )
    library = folder / PLUGINS
    if choices.plugins:
        shutil.copyfile(choices.plugins, library)
    else:
        with sources_of(export, source) as sources:
            shutil.copyfile(plugin_library([cuda.sm], sources=sources), library)
    profiles = profiles_for(
        choices.max_batch or target.max_batch, choices.prefill_length or target.prefill_length
    )
    options = BuildOptions(library, choices.timing_cache, choices.version_compatible)
    record = engines_from_export(export, folder, profiles, options)
    before, _ = cuda.memory()
    engine = load_engine(folder.joinpath, record, source.states, source.vocab_size, cuda)
    check_engine(engine, export, source, record.max_batch, record.prefill_length)
    states = engine.zero_states(record.max_batch)
    taken = max(0, before - cuda.memory()[0])  # another program may have ended meanwhile
    say(f"memory: took {taken / 2**30:.2f} GiB, with states for {states.batch} sequences")
    return replace(record, device_bytes=taken), self_test_of(engine)
