"""The gate of `build`, ONNX Runtime standing for the engine: whole, or with nonsense in one layer's state."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_records import engine_record
from fake_cuda import FakeCuda
from numpy.typing import NDArray
from refusals import refused
from tiny_flow import Flow

from quamba_export.exporter.bundle.build import EngineChoices, build_bundle
from quamba_export.exporter.tensorrt.engine_comparison import compare_logits, compare_states
from quamba_export.exporter.tensorrt.engine_gate import FEEDS, PROBE, check_engine, probe_ids
from quamba_export.runtime.engine import Engine, Ids, Logits, States
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import read_manifest
from quamba_export.runtime.ort_states import OrtStates


def engine_of(export: Path) -> OrtEngine:
    manifest = read_manifest(export)
    return OrtEngine(export / "model.onnx", manifest.states, manifest.vocab_size)


class FaultyEngine(Engine):
    """The export's results but for one value: of a state, or of the logits, in calls of `lengths` tokens."""

    def __init__(self, engine: OrtEngine, name: str, lengths: range, batch: int = 0) -> None:
        self.engine, self.name, self.lengths, self.batch = engine, name, lengths, batch
        self.vocab_size = engine.vocab_size

    def zero_states(self, batch: int) -> States:
        return self.engine.zero_states(batch)

    def load_states(self, arrays: Mapping[str, NDArray[Any]]) -> States:
        return self.engine.load_states(arrays)

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, States]:
        logits, states = self.engine.run(input_ids, states, num_logits)
        if input_ids.shape[1] not in self.lengths or self.batch not in (0, len(input_ids)):
            return logits, states
        arrays = {name: np.array(array) for name, array in states.items()} | {"logits": np.array(logits)}
        arrays[self.name].flat[7] += 1
        logits = arrays.pop("logits")
        return logits, self.load_states(arrays)


def test_an_engine_that_computes_the_export_passes(flow: Flow, capsys: pytest.CaptureFixture[str]) -> None:
    check_engine(engine_of(flow.export), flow.export, read_manifest(flow.export), 4, 512)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 7 * len(FEEDS)
    assert "gate: batch 3, 4 greedy steps: 12/12 the likeliest token" in lines
    assert "gate: batch 1, pieces (37, 1, 1, 61): states: 4/4 equal" in lines
    assert any("batch 3, 8 steps: logits" in line and "same argmax 24/24" in line for line in lines)


@pytest.mark.parametrize("longest", [2, 32, 63, 65])
def test_an_engine_of_short_calls_passes(flow: Flow, longest: int) -> None:
    """Mamba-2's scan takes no 64 tokens of a prompt at once where a call has fewer."""

    class ShortCalls(OrtEngine):
        def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, OrtStates]:
            for start in range(0, input_ids.shape[1], longest):
                logits, states = super().run(input_ids[:, start : start + longest], states, num_logits)
            return logits, states

    manifest = read_manifest(flow.export)
    engine = ShortCalls(flow.export / "model.onnx", manifest.states, manifest.vocab_size)
    check_engine(engine, flow.export, manifest, 4, longest)


@pytest.mark.parametrize(
    ("name", "lengths", "batch", "where", "found"),
    [
        ("past_ssm_states.0", range(2, 999), 0, "layer 0 (past_ssm_states.0)", "batch 1, prompt of 100"),
        ("past_conv_states.1", range(2, 999), 3, "layer 1 (past_conv_states.1)", "batch 3, prompt of 24"),
        ("past_ssm_states.1", range(1, 2), 0, "layer 1 (past_ssm_states.1)", "pieces (37, 1, 1, 61)"),
        ("logits", range(1, 999), 0, "the head (all states are equal)", "prompt of 100: logits"),
    ],
)
def test_nonsense_in_a_layer_is_refused_by_its_name(
    flow: Flow, name: str, lengths: range, batch: int, where: str, found: str
) -> None:
    engine = FaultyEngine(engine_of(flow.export), name, lengths, batch)
    with refused(f"from {where} on", found, "ONNX Runtime", code=ExitCode.NUMERIC):
        check_engine(engine, flow.export, read_manifest(flow.export), 4, 512)


def test_an_engine_that_chooses_another_token_is_refused(flow: Flow) -> None:
    class OtherChoice(OrtEngine):
        def next_tokens(self, input_ids: Ids, states: States) -> tuple[Ids, States]:
            tokens, after = super().next_tokens(input_ids, states)
            tokens[-1] ^= len(tokens) > 1
            return tokens, after

    manifest = read_manifest(flow.export)
    engine = OtherChoice(flow.export / "model.onnx", manifest.states, manifest.vocab_size)
    with refused("from the head", "batch 3, 4 greedy steps: 8/12", code=ExitCode.NUMERIC):
        check_engine(engine, flow.export, manifest, 4, 512)


def test_a_bundle_that_fails_is_not_written(
    monkeypatch: pytest.MonkeyPatch, flow: Flow, tmp_path: Path
) -> None:
    record = engine_record(max_batch=2, prefill_length=512, device_bytes=0)
    engine = FaultyEngine(engine_of(flow.export), "past_ssm_states.1", range(1, 999))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda())
    monkeypatch.setattr("quamba_export.runtime.tensorrt_library.import_builder", lambda: None)
    build = "quamba_export.exporter.tensorrt.build.engines_from_export"
    monkeypatch.setattr(build, lambda *arguments: record)
    monkeypatch.setattr("quamba_export.runtime.engine_tensorrt.load_engine", lambda *arguments: engine)
    (tmp_path / "plugins.so").write_bytes(b"plugins")
    with refused("no bundle was written", "layer 1 (past_ssm_states.1)", code=ExitCode.NUMERIC):
        build_bundle(flow.export, "h200", tmp_path / "bundle", EngineChoices(tmp_path / "plugins.so"))
    assert [path.name for path in tmp_path.iterdir()] == ["plugins.so"]


def test_the_probe_is_real_text_and_long_enough(flow: Flow) -> None:
    manifest = read_manifest(flow.export)
    ids = probe_ids(flow.export, manifest)
    assert len(ids) == 132
    assert 0 <= ids.min() <= ids.max() < manifest.vocab_size
    assert len(PROBE.split()) > 200


def test_the_first_layer_is_named_in_the_order_of_the_layers() -> None:
    wanted = {f"past_{kind}_states.{i}": np.zeros((1, 2)) for kind in ("conv", "ssm") for i in range(12)}
    found = wanted | {name: np.ones((1, 2)) for name in wanted if int(name.rpartition(".")[2]) > 8}
    finding = compare_states("states", found, wanted)
    assert (finding.good, finding.state) == (False, "past_conv_states.9")
    assert (
        "18/24 equal; first past_conv_states.9: 2 of 2 values, at (0, 0) 1.0 instead of 0.0" in finding.found
    )


def test_what_is_no_number_is_no_match() -> None:
    zeros = np.zeros((1, 1, 4), np.float32)
    assert compare_logits("", zeros, zeros).good
    assert not compare_logits("", zeros + np.nan, zeros).good
    assert not compare_states("", {"s.0": zeros + np.nan}, {"s.0": zeros}).good
