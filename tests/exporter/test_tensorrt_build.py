"""Engines need a GPU; what is decided before one is asked does not."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_records import engine_record
from fake_cuda import FakeCuda
from fake_export import write_fake_export
from fake_tensorrt import LOADED, FakeBuilder, FakeTensorRT
from refusals import refused
from tiny_flow import Flow

from quamba_export.exporter.artefacts import require_graph
from quamba_export.exporter.bundle.build import EngineChoices, build_bundle
from quamba_export.exporter.inspection.inspect import inspect_path
from quamba_export.exporter.tensorrt import build as tensorrt_build
from quamba_export.exporter.tensorrt.build import BuildOptions, engines_from_export, profiles_for
from quamba_export.exporter.tensorrt.timing_cache import TimingCache
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.engine_record import EngineRecord, WeightTensor
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import manifest_for, read_manifest, write_manifest
from quamba_export.runtime.tensorrt_library import Messages, import_builder, import_tensorrt
from quamba_export.targets.target import load_target

TABLE = (WeightTensor("a.weight", "int8", (3, 5), 0), WeightTensor("b.weight", "float16", (2, 2), 256))
RECORD = engine_record(TABLE, prefill_length=512)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A TensorRT bundle as `build` lays it out, without engines that could run."""
    folder = write_fake_export(tmp_path / "bundle")
    source = read_manifest(folder)
    for name in ("export.json", "model.onnx", "model.onnx.data"):
        (folder / name).unlink()
    for name in ("decode.engine", "prefill.engine", "libquamba_plugins.so"):
        (folder / name).write_bytes(name.encode())
    (folder / "weights.bin").write_bytes(bytes(264))
    manifest = manifest_for(folder, source, target="h200", backend="tensorrt", producer="test", engine=RECORD)
    write_manifest(manifest, folder)
    return folder


def test_profiles_cover_one_token_and_a_chunk() -> None:
    decode, prefill = profiles_for(max_batch=8, prefill_length=512)
    shapes = [decode.shape((-1, -1), which) for which in ("min", "opt", "max")]
    assert shapes == [(1, 1), (1, 1), (8, 1)]
    shapes = [prefill.shape((-1, -1), which) for which in ("min", "opt", "max")]
    assert shapes == [(1, 1), (1, 512), (8, 512)]
    assert prefill.shape((-1, 16, 64, 128), "max") == (8, 16, 64, 128)


@pytest.mark.parametrize("name", ["h200", "rtx4090", "agx-orin", "orin-nano", "agx-thor", "rtx5090", "a100"])
def test_a_gpu_target_says_what_its_engines_take(name: str) -> None:
    target = load_target(name)
    assert target.backend == "tensorrt"
    assert min(target.sm - 79, target.max_batch, target.prefill_length) > 0


def test_a_bundle_is_read_back_with_its_engine_record(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert (manifest.backend, manifest.engine) == ("tensorrt", RECORD)
    facts = inspect_path(str(bundle))
    assert (facts.target, facts.engine["sm"], facts.bytes_by_group) == ("h200", 90, {"other": 23})
    assert "weights" not in facts.engine
    with refused("holds no ONNX graph", "backend tensorrt", "fix: name the export/", code=ExitCode(5)):
        require_graph(bundle, manifest)


@pytest.mark.parametrize("key", asdict(RECORD))
def test_an_engine_record_is_whole(bundle: Path, key: str) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace(f'"{key}":', f'"_{key}":'))
    with refused("engine", f"'{key}' is not allowed"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("offset", 128, "multiple of 256"),
        ("offset", 512, "integer from 0 to 264"),
        ("shape", [2, 3], "bytes 256 to 268"),
        ("shape", [0, 2], "integers from 1"),
        ("dtype", "float64", "'int8' or 'float16'"),
        ("name", "a.weight", "each once"),
    ],
)
def test_a_weight_outside_its_file_is_refused(bundle: Path, key: str, value: object, text: str) -> None:
    path = bundle / "manifest.json"
    record = json.loads(path.read_text())
    record["engine"]["weights"][1][key] = value
    path.write_text(json.dumps(record))
    with refused("is not allowed", text):
        read_manifest(bundle)


def test_a_table_without_weights_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    record = json.loads(path.read_text())
    record["engine"]["weights"] = []
    path.write_text(json.dumps(record))
    with refused("'weights' is not allowed", "found: none", "one weight or more"):
        read_manifest(bundle)


def test_a_bundle_without_its_weights_is_refused(bundle: Path) -> None:
    (bundle / "weights.bin").unlink()
    with refused("lacks a file", "weights.bin", code=ExitCode.INTEGRITY):
        read_manifest(bundle)


def test_a_backend_without_its_files_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"tensorrt",\n  "qformat"', '"onnxruntime",\n  "qformat"'))
    with refused("'backend' is not allowed", "found: onnxruntime"):
        read_manifest(bundle)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    """A builder without a GPU, and a cache folder of its own."""
    fake, messages = FakeTensorRT(), Messages()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda())
    monkeypatch.setattr(tensorrt_build, "import_builder", lambda: fake)
    monkeypatch.setattr(tensorrt_build, "logger", lambda: (None, messages))
    monkeypatch.setattr(tensorrt_build, "load_plugins", lambda library: LOADED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def build(flow: Flow, folder: Path, **options: Any) -> EngineRecord:
    folder.mkdir()
    (folder / "plugins.so").write_bytes(b"plugins")
    chosen = BuildOptions(folder / "plugins.so", **options)
    return engines_from_export(flow.export, folder, profiles_for(4, 16), chosen)


def test_both_plans_take_the_weights_of_one_file(flow: Flow, tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    record = build(flow, tmp_path / "bundle")
    assert (record.tensorrt, record.sm, record.contracts) == ("10.6.0", 90, "c0ffee")
    assert (record.max_batch, record.prefill_length) == (4, 16)
    decode, prefill = (
        json.loads((tmp_path / f"bundle/{name}.engine").read_bytes()) for name in ("decode", "prefill")
    )
    assert decode["flags"] == prefill["flags"] == []
    assert decode["inputs"] == prefill["inputs"]
    assert {weight.name for weight in record.weights} <= set(decode["inputs"])
    assert decode["shapes"]["input_ids"] == [[1, 1], [1, 1], [4, 1]]
    assert prefill["shapes"]["input_ids"] == [[1, 1], [1, 16], [4, 16]]
    assert not set(decode["shapes"]) & {weight.name for weight in record.weights}
    assert (tmp_path / "bundle/weights.bin").stat().st_size == record.weights[-1].end


def test_version_compatible_plans_are_marked_and_cached_apart(
    flow: Flow, tensorrt: FakeTensorRT, tmp_path: Path
) -> None:
    record = build(flow, tmp_path / "bundle", version_compatible=True)
    assert record.version_compatible
    plan = json.loads((tmp_path / "bundle/decode.engine").read_bytes())
    assert plan["flags"] == ["VERSION_COMPATIBLE"]
    build(flow, tmp_path / "other")
    assert len(list((tmp_path / "cache/quamba-export/timing").iterdir())) == 2


def test_a_builder_without_its_lean_runtime_says_what_to_install(
    flow: Flow, tensorrt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBuilder, "build_serialized_network", lambda *_: None)
    with refused("build the decode engine", "libnvinfer_lean of this version", code=5):
        build(flow, tmp_path / "bundle", version_compatible=True)
    with refused("build the decode engine", "--target cpu", code=5):
        build(flow, tmp_path / "other")


def test_tactics_are_kept_for_the_next_plan_and_build(
    flow: Flow, tensorrt: FakeTensorRT, tmp_path: Path
) -> None:
    build(flow, tmp_path / "first")
    build(flow, tmp_path / "second")
    assert tensorrt.tactics_read == [b"", *(b"tactics" + times * b" more" for times in (1, 2, 3))]
    (path,) = (tmp_path / "cache/quamba-export/timing").iterdir()
    build(flow, tmp_path / "third", timing_cache=tmp_path / "mine")
    assert tensorrt.tactics_read[4] == b""
    assert path.read_bytes().split(b"\n", 3)[3] == b"tactics more more more more"
    assert (tmp_path / "mine").exists()


def test_tactics_that_tensorrt_refuses_are_left_out(
    flow: Flow, tensorrt: FakeTensorRT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(flow, tmp_path / "first")
    (path,) = (tmp_path / "cache/quamba-export/timing").iterdir()
    key = path.read_bytes().split(b"\n", 3)[1].decode()
    TimingCache(path, key).write(b"whole, but of another TensorRT")
    build(flow, tmp_path / "second")
    assert tensorrt.tactics_read[2:] == [b"", b"tactics more"]
    assert "is not used: TensorRT refuses it" in capsys.readouterr().err


def test_a_bundle_is_written_whole(
    monkeypatch: pytest.MonkeyPatch, flow: Flow, tensorrt: FakeTensorRT, tmp_path: Path
) -> None:
    """Everything but the engine itself, in whose place ONNX Runtime takes some memory of the GPU."""

    def load_engine(
        folder: Path, record: EngineRecord, states: Any, vocab_size: int, cuda: Cuda
    ) -> OrtEngine:
        cuda.api.free_bytes -= 3 << 20
        return OrtEngine(flow.export / "model.onnx", states, vocab_size)

    monkeypatch.setattr("quamba_export.runtime.tensorrt_library.import_builder", lambda: tensorrt)
    monkeypatch.setattr("quamba_export.runtime.engine_tensorrt.load_engine", load_engine)
    (tmp_path / "plugins.so").write_bytes(b"plugins")
    choices = EngineChoices(tmp_path / "plugins.so", max_batch=2, version_compatible=True)
    result = build_bundle(flow.export, "h200", tmp_path / "bundle", choices)
    manifest = read_manifest(tmp_path / "bundle")
    assert set(result.files) >= {"weights.bin", "decode.engine", "prefill.engine", "libquamba_plugins.so"}
    assert "model.onnx.data" not in result.files
    assert manifest.engine is not None
    assert (manifest.engine.max_batch, manifest.engine.prefill_length) == (2, 512)
    assert manifest.engine.device_bytes == 3 << 20
    assert manifest.engine.weights[-1].end == manifest.files["weights.bin"].size
    assert manifest.engine.version_compatible
    assert (manifest.engine.contracts, manifest.engine.cuda) == (LOADED.contracts, LOADED.cuda)


def test_a_build_that_cannot_fit_ends_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, flow: Flow, tensorrt: FakeTensorRT, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(memory=1 << 20))
    with refused("not fit into the GPU's memory", code=ExitCode.OUT_OF_SPACE):
        build(flow, tmp_path / "bundle")
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["plugins.so"]


def test_engines_are_built_on_the_target_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(sm=87))
    monkeypatch.setattr("quamba_export.runtime.tensorrt_library.import_builder", lambda: None)
    export = write_fake_export(tmp_path / "export")
    with refused("h200 cannot be built on this machine", "found: a GPU of sm_87", "allowed: sm_90", code=5):
        build_bundle(export, "h200", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The TensorRT modules of a machine, none at first."""
    modules: dict[str, Any] = {}

    def import_module(name: str) -> Any:
        if name not in modules:
            raise ImportError(f"No module named {name!r}")
        return modules[name]

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.delenv("QUAMBA_TENSORRT", raising=False)
    import_tensorrt.cache_clear()
    yield modules
    import_tensorrt.cache_clear()


def test_a_machine_without_tensorrt_is_told_how_to_get_it(installed: dict[str, Any]) -> None:
    with refused("TensorRT is not installed", "tensorrt_lean_bindings", "pip install tensorrt-cu12", code=5):
        import_tensorrt()


def test_the_lean_runtime_is_found_and_builds_nothing(
    installed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lean = SimpleNamespace(__name__="tensorrt_lean_bindings", __version__="10.16.1")
    installed["tensorrt_lean_bindings"] = lean
    assert import_tensorrt() is lean
    with refused("lean runtime", "builds no engines", "tensorrt_lean_bindings 10.16.1", code=5):
        import_builder()
    whole = SimpleNamespace(__name__="tensorrt_bindings", __version__="10.6.0")
    installed["tensorrt_bindings"] = whole
    import_tensorrt.cache_clear()
    assert import_builder() is whole
    import_tensorrt.cache_clear()
    monkeypatch.setenv("QUAMBA_TENSORRT", "tensorrt_lean_bindings")
    assert import_tensorrt() is lean
