"""`compare --bundle`: PyTorch float, PyTorch quantized, ONNX Runtime and an engine in one Polygraphy run.

The engine is ONNX Runtime's or a fault planted in it, behind the interface that TensorRT fills on a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refused
from tiny_flow import Flow, run_json
from tiny_recurrent import LAYERS, NumpyEngine, V

from quamba_export.exporter.comparison import models as compare_models
from quamba_export.exporter.comparison.runners import EngineRunner
from quamba_export.runtime.engine import Ids, Logits, States
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import Manifest, read_manifest

BUNDLE = Path("bundle-h200")


class BrokenEngine(OrtEngine):
    """Writes one code of one layer's conv state wrongly."""

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, Any]:
        logits, after = super().run(input_ids, states, num_logits)
        arrays = {name: np.array(array) for name, array in after.items()}
        arrays["past_conv_states.1"][0, 0, 0] ^= 1
        return logits, self.load_states(arrays)


def run_four(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, engine: type[OrtEngine], *flags: object
) -> dict[tuple[str, str], dict[str, Any]]:
    """The pairs of `compare --bundle` with `engine` in the place of TensorRT's."""
    export = read_manifest(flow.export)
    sources = export.sources | {"export": export.digest}
    bundle = replace(export, kind="bundle", target="h200", backend="tensorrt", sources=sources)
    opened = partial(engine, flow.export / "model.onnx", export.states, export.config["vocab_size"])

    def manifest_of(path: Path) -> Manifest:
        return bundle if path == BUNDLE else read_manifest(path)

    monkeypatch.setattr(compare_models, "read_manifest", manifest_of)
    monkeypatch.setattr(compare_models, "open_model", lambda path: (bundle, opened()))
    text = ("--data", flow.text, "--window", 32, "--max-tokens", 64)
    flags = ("--against", flow.checkpoint, "--bundle", BUNDLE, *text, *flags)
    found = run_json("compare", flow.export, *flags)
    assert found["bundle"] == str(BUNDLE)
    return {(pair["reference"], pair["candidate"]): pair for pair in found["pairs"]}


def state_sites(layers: int) -> set[str]:
    return {f"layers.{i}.{kind}_state" for i in range(layers) for kind in ("conv", "ssm")}


def test_four_models_are_compared_in_one_run(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "compare.html"
    pairs = run_four(flow, monkeypatch, OrtEngine, "--html", page)
    others = ("pytorch", "onnxruntime", "tensorrt")
    assert list(pairs) == [*(("float", name) for name in others), others[:2], others[1:]]
    equal = pairs["onnxruntime", "tensorrt"]
    assert {site["site"] for site in equal["sites"]} == state_sites(2) | {"logits"}
    assert [site["site"] for site in equal["sites"] if site["max_abs"] > 1e-5] == []
    assert {site["differing_codes"] for site in equal["sites"]} == {0.0, None}
    assert equal["top1_agreement"] == 1
    assert pairs["float", "tensorrt"]["kl"] == pytest.approx(pairs["float", "onnxruntime"]["kl"], rel=1e-3)
    titles = ("PyTorch float", "PyTorch quantized", "ONNX Runtime", "TensorRT")
    assert "".join(f"<th>{title}</th>" for title in titles) in page.read_text()


def test_a_wrong_state_of_an_engine_shows_in_its_layer(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = run_four(flow, monkeypatch, BrokenEngine)
    sites = pairs["onnxruntime", "tensorrt"]["sites"]
    assert [site["site"] for site in sites if site["differing_codes"]] == ["layers.1.conv_state"]


def test_one_call_gives_the_states_and_the_logits_of_every_token() -> None:
    ids, engine = np.arange(7)[None], NumpyEngine()
    wanted, states = NumpyEngine().run(ids, NumpyEngine().zero_states(1), 7)
    with EngineRunner("tensorrt", lambda: engine) as runner:
        found = runner.infer({"input_ids": ids})
    assert set(found) == state_sites(LAYERS) | {"logits"}
    assert found["logits"].shape == (1, 7, V)
    np.testing.assert_array_equal(found["logits"], wanted)
    np.testing.assert_array_equal(found["layers.1.ssm_state"], states["past_ssm_states.1"])
    assert engine.calls == [(1, 7)]


def test_a_bundle_of_another_export_or_without_engines_is_refused(flow: Flow) -> None:
    manifest = read_manifest(flow.export)
    with refused("holds no TensorRT engines", "onnxruntime", code=ExitCode.USAGE):
        compare_models.engine_runner(flow.bundle, flow.export, manifest)
    with pytest.MonkeyPatch.context() as patch:
        other = replace(read_manifest(flow.bundle), backend="tensorrt", target="h200")
        patch.setattr(compare_models, "read_manifest", lambda path: other)
        assert compare_models.engine_runner(BUNDLE, flow.export, manifest).name == "tensorrt"
        changed = replace(manifest, digest="f" * 64)
        with refused("was built from another export", "build EXPORT --target h200", code=ExitCode.INTEGRITY):
            compare_models.engine_runner(BUNDLE, flow.export, changed)
