"""`build --target orin` elsewhere: an export/ with its plugins, which `build` on the Orin finishes."""

from __future__ import annotations

import functools
import json
import platform
from pathlib import Path

import pytest
from engine_records import engine_record
from fake_export import FILES, write_fake_export
from plugin_registry import CACHE, quickly, skipping_what_is_missing
from refusals import refused
from typer.testing import CliRunner

from quamba_export.exporter.bundle import build as bundle_build
from quamba_export.exporter.bundle.build import EngineChoices, build_bundle
from quamba_export.exporter.cli import app
from quamba_export.exporter.plugin_build import cross_build, prepare_device
from quamba_export.exporter.plugin_build.cross_build import cross_library, cross_toolchain
from quamba_export.exporter.plugin_build.prepare_device import driver_cuda
from quamba_export.runtime.engine_record import EngineRecord, PreparedRecord, WeightTensor
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import Manifest, read_manifest
from quamba_export.runtime.self_test import SelfTest
from quamba_export.targets.target_file import Target

LIBRARY = "libquamba_plugins.so"
AARCH64 = bytes.fromhex("7f454c46 0201 01 00 0000000000000000 0300 b700") + b"the rest"


@pytest.fixture(autouse=True)
def desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_fake_export(tmp_path / "export")


@pytest.fixture
def prepared(export: Path, tmp_path: Path) -> Path:
    """For an Orin, with a library that was compiled before."""
    library = tmp_path / "compiled.so"
    library.write_bytes(AARCH64)
    build_bundle(export, "orin", tmp_path / "prepared", EngineChoices(plugins=library))
    return tmp_path / "prepared"


def test_it_is_the_export_with_the_library_and_says_for_what(export: Path, prepared: Path) -> None:
    manifest = read_manifest(prepared)
    digest = read_manifest(export).digest
    assert (manifest.kind, manifest.prepared) == ("export", PreparedRecord("agx-orin", 87, 6, digest))
    assert manifest.digest != digest == manifest.export_digest
    assert set(manifest.files) == {*FILES, LIBRARY}
    record, source = (json.loads((path / "export.json").read_text()) for path in (prepared, export))
    assert {name: record[name] for name in source if name != "files"} == {
        name: source[name] for name in source if name != "files"
    }


def write_engines(
    export: Path, source: Manifest, target: Target, folder: Path, choices: EngineChoices
) -> tuple[EngineRecord, SelfTest]:
    """In place of TensorRT's: everything but the library is empty."""
    assert choices.plugins is not None
    for name in ("decode.engine", "prefill.engine"):
        (folder / name).touch()
    (folder / "weights.bin").write_bytes(b"12345678")
    (folder / LIBRARY).write_bytes(choices.plugins.read_bytes())
    weights = (WeightTensor("head.weight", "int8", (2, 4), 0),)
    record = engine_record(
        weights, tensorrt="10.3.0", sm=target.sm, max_batch=1, prefill_length=1, device_bytes=0
    )
    return record, SelfTest((1,), (2,), "a" * 64)


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch, prepared: Path) -> None:
    """This machine as one, of JetPack 6; `prepared` is there already."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(bundle_build, "write_engines", write_engines)
    monkeypatch.setattr(prepare_device, "driver_cuda", lambda: "12.6")


@pytest.mark.usefixtures("orin")
def test_a_build_on_the_device_takes_that_library(export: Path, prepared: Path, tmp_path: Path) -> None:
    build_bundle(prepared, "orin-nano", tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    assert (tmp_path / "bundle" / LIBRARY).read_bytes() == AARCH64
    assert (manifest.target, manifest.prepared) == ("orin-nano", None)
    assert manifest.self_test == SelfTest((1,), (2,), "a" * 64)
    assert manifest.sources["export"] == read_manifest(export).digest  # what it computes is that export's


@pytest.mark.usefixtures("orin")
def test_a_library_exchanged_after_its_check_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, prepared: Path, tmp_path: Path
) -> None:
    loaded = []

    def exchanging(
        export: Path, source: Manifest, target: Target, folder: Path, choices: EngineChoices
    ) -> tuple[EngineRecord, SelfTest]:
        (tmp_path / "other.so").write_bytes(AARCH64.upper())
        (tmp_path / "other.so").replace(export / LIBRARY)
        result = write_engines(export, source, target, folder, choices)
        loaded.append((folder / LIBRARY).read_bytes())
        return result

    monkeypatch.setattr(bundle_build, "write_engines", exchanging)
    with refused(f"{LIBRARY} has changed", code=ExitCode.INTEGRITY):
        build_bundle(prepared, "orin-nano", tmp_path / "bundle")
    assert loaded == [AARCH64]
    assert not (tmp_path / "bundle").exists()


def test_the_cpu_bundle_of_it_is_that_of_the_export(
    monkeypatch: pytest.MonkeyPatch, prepared: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(bundle_build, "cpu_self_test", lambda folder, source: None)
    build_bundle(prepared, "cpu", tmp_path / "bundle")
    assert set(read_manifest(tmp_path / "bundle").files) == set(FILES)


def test_another_gpu_is_refused_its_library(prepared: Path, tmp_path: Path) -> None:
    with refused("are not for h200", "compiled for agx-orin, sm_87", "allowed: sm_90", code=5):
        build_bundle(prepared, "h200", tmp_path / "bundle")


@pytest.mark.parametrize(("driver", "jetpack"), [("13.2", 6), ("12.6", 7)])
def test_another_cuda_is_refused_its_library(
    monkeypatch: pytest.MonkeyPatch, prepared: Path, tmp_path: Path, driver: str, jetpack: int
) -> None:
    path = prepared / "export.json"
    path.write_text(path.read_text().replace('"jetpack": 6', f'"jetpack": {jetpack}'))
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(prepare_device, "driver_cuda", lambda: driver)
    fix = f"--jetpack {13 - jetpack}"
    with refused(f"compiled for JetPack {jetpack}", f"a driver of CUDA {driver}", fix, code=5):
        build_bundle(prepared, "orin", tmp_path / "bundle")


def test_a_machine_without_a_driver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(prepare_device.ctypes, "CDLL", missing)
    with refused("no CUDA driver", "libcuda.so.1: cannot open", code=5):
        driver_cuda()


def test_a_changed_library_is_refused(prepared: Path, tmp_path: Path) -> None:
    (prepared / LIBRARY).write_bytes(AARCH64.upper())
    with refused(f"{LIBRARY} has changed", code=ExitCode.INTEGRITY):
        build_bundle(prepared, "orin", tmp_path / "again")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no ELF file"),
        (b"#!/bin/sh\n", "no ELF file"),
        (AARCH64[:18], "no ELF file"),
        (AARCH64.replace(b"\x03\x00\xb7", b"\x03\x00\x3e"), "a 64-bit x86-64 shared library"),
        (AARCH64.replace(b"\x03\x00\xb7", b"\x02\x00\xb7"), "a 64-bit aarch64 program"),
        (AARCH64.replace(b"\x03\x00\xb7", b"\x03\x00\x28"), "a 64-bit ELF machine 40 shared library"),
        (AARCH64.replace(b"F\x02", b"F\x01"), "a 32-bit"),
    ],
)
def test_a_library_that_is_not_the_jetson_s_is_refused(
    export: Path, tmp_path: Path, content: bytes, found: str
) -> None:
    library = tmp_path / "compiled.so"
    library.write_bytes(content)
    with refused("is no library for agx-orin", found, "aarch64", "leave out --plugins", code=5):
        build_bundle(export, "orin", tmp_path / "prepared", EngineChoices(plugins=library))
    assert not (tmp_path / "prepared").exists()


def test_an_export_may_be_prepared_again(prepared: Path, export: Path, tmp_path: Path) -> None:
    choices = EngineChoices(plugins=prepared / LIBRARY, jetpack=7)
    build_bundle(prepared, "orin", tmp_path / "again", choices)
    again = read_manifest(tmp_path / "again")
    assert again.prepared == PreparedRecord("agx-orin", 87, 7, read_manifest(export).digest)


@pytest.mark.parametrize("key", ["target", "sm", "jetpack", "export", "prepared"])
def test_the_record_is_whole(prepared: Path, key: str) -> None:
    path = prepared / "export.json"
    path.write_text(path.read_text().replace(f'"{key}":', f'"_{key}":'))
    with refused("export.json", "is not allowed"):
        read_manifest(prepared)


@pytest.mark.parametrize(
    ("target", "choices", "option"),
    [
        ("orin", EngineChoices(max_batch=2), "--max-batch"),
        ("orin", EngineChoices(prefill_length=64), "--prefill-length"),
        ("orin", EngineChoices(timing_cache=Path("timing")), "--timing-cache"),
        ("h200", EngineChoices(jetpack=6), "--jetpack"),
        ("cpu", EngineChoices(jetpack=7), "--jetpack"),
        ("orin", EngineChoices(version_compatible=True), "--version-compatible"),
        ("cpu", EngineChoices(max_batch=2), "--max-batch"),
        ("cpu", EngineChoices(version_compatible=True), "--version-compatible"),
    ],
)
def test_a_choice_without_use_is_refused(
    export: Path, tmp_path: Path, target: str, choices: EngineChoices, option: str
) -> None:
    with refused(f"has no use for {option}", code=ExitCode.USAGE):
        build_bundle(export, target, tmp_path / "out", choices)


@pytest.mark.slow
@pytest.mark.parametrize(
    "jetpack",
    [pytest.param(n, marks=pytest.mark.xdist_group(f"plugin library for JetPack {n}")) for n in (6, 7)],
)
def test_the_command_compiles_for_the_jetson(
    monkeypatch: pytest.MonkeyPatch, export: Path, tmp_path: Path, jetpack: int
) -> None:
    with skipping_what_is_missing():
        cross_toolchain(jetpack, CACHE)
    monkeypatch.setattr(cross_build, "cross_toolchain", lambda *question: quickly(cross_toolchain(*question)))
    monkeypatch.setattr(prepare_device, "cross_library", functools.partial(cross_library, cache=CACHE))
    out = tmp_path / "prepared"
    result = CliRunner().invoke(
        app, ["build", str(export), "--target", "orin", "-o", str(out), "--jetpack", str(jetpack)]
    )
    assert result.exit_code == 0, result.output
    assert "quamba-export build prepared --target agx-orin" in result.output
    header = (out / LIBRARY).read_bytes()[:20]
    assert (header[:4], header[18:20]) == (AARCH64[:4], AARCH64[18:20])  # ELF, the machine
