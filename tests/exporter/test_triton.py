"""`export-triton`: a repository whose config.pbtxt Triton's own schema takes, with a fake plan."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from importlib.metadata import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engine_records import engine_record
from fake_cuda import FakeCuda
from fake_tensorrt import LOADED, FakeTensorRT
from google.protobuf import text_format
from tiny_flow import Flow, run_json

from quamba_export.exporter.bundle import triton
from quamba_export.exporter.bundle.triton_config import config_of
from quamba_export.exporter.tensorrt import build as tensorrt_build
from quamba_export.runtime import tensorrt_library
from quamba_export.runtime.engine_record import WeightTensor
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.manifest import manifest_for, read_manifest, write_manifest
from quamba_export.runtime.tensorrt_library import Messages

RECORD = engine_record((WeightTensor("head", "int8", (8,), 0),), prefill_length=16, device_bytes=1 << 20)


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """model_config.proto as Triton's client has it; its package would import grpc."""
    path = next(file for file in files("tritonclient") or () if file.name == "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(path.locate()))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle(flow: Flow, tmp_path: Path) -> Path:
    """A TensorRT bundle of the flow's export as `build` lays it out, its engines some bytes."""
    source, folder = read_manifest(flow.export), tmp_path / "bundle"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((flow.export / name).read_bytes())
    for name in ("decode.engine", "prefill.engine", "libquamba_plugins.so", "weights.bin"):
        (folder / name).write_bytes(name.encode())
    manifest = manifest_for(folder, source, target="h200", backend="tensorrt", producer="test", engine=RECORD)
    write_manifest(manifest, folder)
    return folder


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    """A builder without a GPU."""
    fake = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda())
    monkeypatch.setattr(tensorrt_build, "logger", lambda: (None, Messages()))
    for module in (tensorrt_build, tensorrt_library):
        monkeypatch.setattr(module, "import_builder", lambda: fake)
        monkeypatch.setattr(module, "load_plugins", lambda library: LOADED)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def test_a_repository_is_a_config_a_plan_and_the_plugins(
    flow: Flow, bundle: Path, tensorrt: FakeTensorRT, tmp_path: Path, schema: ModuleType
) -> None:
    out = tmp_path / "repository"
    made = run_json("export-triton", bundle, "--export", flow.export, "-o", out)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        "README.md",
        "models/quamba/1/model.plan",
        "models/quamba/config.pbtxt",
        "plugins/libquamba_plugins.so",
        "tokenizer.json",
    ]
    plan = json.loads((out / "models/quamba/1/model.plan").read_bytes())
    assert made["plan_bytes"] == (out / "models/quamba/1/model.plan").stat().st_size
    config = text_format.Parse((out / "models/quamba/config.pbtxt").read_text(), schema.ModelConfig())
    states = config.sequence_batching.state
    assert sorted(plan["inputs"]) == sorted(
        ["input_ids", *(state.input_name for state in states)]
    )  # no weights
    assert plan["shapes"]["input_ids"] == [[1, 1], [1, 16], [4, 16]]
    text = (out / "README.md").read_text()
    assert "--backend-config=tensorrt,version-compatible=true" in text
    assert "TensorRT 10.6.0" in text
    assert "L up to 16" in text


def test_plugins_that_change_behind_their_check_are_not_loaded(
    flow: Flow, bundle: Path, tensorrt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_source = triton.check_source

    def and_then(*checked: Any) -> None:
        check_source(*checked)
        (bundle / "libquamba_plugins.so").write_bytes(b"other code")

    monkeypatch.setattr(triton, "check_source", and_then)
    monkeypatch.setattr(tensorrt_library, "load_plugins", lambda library: pytest.fail("loaded"))
    run_json("export-triton", bundle, "--export", flow.export, "-o", tmp_path / "repository", exit_code=4)
    assert not (tmp_path / "repository").exists()


def test_the_config_says_what_the_bundle_s_manifest_says(bundle: Path, schema: ModuleType) -> None:
    manifest = read_manifest(bundle)
    config = text_format.Parse(config_of("quamba", manifest, RECORD), schema.ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == ("quamba", "tensorrt_plan", 4)
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [
        ("input_ids", schema.TYPE_INT64, [-1])
    ]
    assert [(o.name, o.data_type, list(o.dims)) for o in config.output] == [
        ("logits", schema.TYPE_FP32, [1, manifest.vocab_size])
    ]
    assert config.sequence_batching.WhichOneof("strategy_choice") == "oldest"
    types = {"int8": schema.TYPE_INT8, "float16": schema.TYPE_FP16, "float32": schema.TYPE_FP32}
    found = config.sequence_batching.state
    assert len(found) == len(manifest.states)
    for state, wanted in zip(found, manifest.states, strict=True):
        assert (state.input_name, state.output_name) == (wanted.past, wanted.present)
        assert (state.data_type, tuple(state.dims)) == (types[wanted.dtype], wanted.shape)
        (initial,) = state.initial_state
        assert (initial.data_type, tuple(initial.dims)) == (types[wanted.dtype], wanted.shape)
        assert (initial.WhichOneof("state_data"), initial.zero_data) == ("zero_data", True)


@pytest.mark.parametrize(
    ("old", "new"), [("oldest", "newest"), ("TYPE_INT64", "TYPE_INT65"), ("dims", "shape")]
)
def test_the_schema_refuses_what_it_does_not_know(
    bundle: Path, schema: ModuleType, old: str, new: str
) -> None:
    text = config_of("quamba", read_manifest(bundle), RECORD)
    assert old in text
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text.replace(old, new), schema.ModelConfig())


def test_what_cannot_become_a_repository_is_refused(
    flow: Flow, bundle: Path, tensorrt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("-o", tmp_path / "repository")
    run_json("export-triton", bundle, "--export", flow.export, "-o", tmp_path, exit_code=2)
    for name in ("../quamba", "a b", ""):
        run_json("export-triton", bundle, "--export", flow.export, *out, "--name", name, exit_code=2)
    run_json("export-triton", flow.bundle, "--export", flow.export, *out, exit_code=5)  # has no engines
    run_json("export-triton", bundle, "--export", flow.export, "-o", bundle / "repository", exit_code=2)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    run_json("export-triton", bundle, "--export", flow.export, "-o", tmp_path / "link", exit_code=2)
    tensorrt.__version__ = "10.7.0"
    run_json("export-triton", bundle, "--export", flow.export, *out, exit_code=5)
    manifest, source = read_manifest(bundle), read_manifest(flow.export)
    with pytest.raises(QuambaError, match="was not built of"):
        triton.check_source(manifest, replace(source, digest="f" * 64), bundle, flow.export)
    monkeypatch.setattr(triton, "MAX_PLAN_WEIGHTS", 10)
    with pytest.raises(QuambaError, match="too large"):
        triton.check_source(manifest, source, bundle, flow.export)
    assert [path.name for path in tmp_path.iterdir() if "repository" in path.name] == []
