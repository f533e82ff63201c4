"""The exported graph against the quantized reference: same codes and states, any batch, any cut."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from quamba_export.calib.calibration_checks import config_from_json
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.state_dtype import SsmStateDtype
from quamba_export.exporter.graph.onnx_export import export_onnx, onnx_from_model
from quamba_export.runtime.manifest import read_manifest
from tests.exported_graph import CONFIGS, Graph, calibrated, quantized, tapped, tokens
from tests.random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS


@pytest.mark.parametrize("length", [1, 7, 64, 131])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_site_and_state_is_the_same_bit_for_bit(name: str, length: int, tmp_path: Path) -> None:
    model = quantized(CONFIGS[name])
    ids = tokens(model.config, 2, length)
    expected = tapped(model, ids)
    found = Graph(model, tmp_path, tuple(site for site in expected if site.startswith("layers."))).run(ids)
    codes = [site for site, tensor in expected.items() if tensor.dtype == torch.int8]
    assert len(codes) >= 8 * model.config.n_layer
    for site, tensor in expected.items():
        if site == "logits":
            np.testing.assert_allclose(found[site], tensor.numpy(), rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(found[site], tensor.numpy(), err_msg=site)


@pytest.mark.parametrize("state_dtype", ["float32", "int8", "int8-dynamic", "int8-stochastic"])
@pytest.mark.parametrize("name", ["mamba1", "mamba2 in groups"])
def test_other_state_dtypes(name: str, state_dtype: SsmStateDtype, tmp_path: Path) -> None:
    model = quantized(CONFIGS[name], state_dtype)
    graph, states, reference_states = Graph(model, tmp_path), None, None
    for length in (33, 1, 1):
        ids = tokens(model.config, 2, length)
        outputs = graph.run(ids, states)
        logits, reference_states = model(ids, reference_states)
        states = graph.next_states(outputs)
        np.testing.assert_allclose(outputs["logits"], logits.numpy(), rtol=0, atol=1e-5)
        for i, state in enumerate(reference_states.ssm):
            np.testing.assert_array_equal(states[f"past_ssm_states.{i}"], state.numpy())


@pytest.mark.parametrize("state_dtype", ["float16", "float32", "int8", "int8-dynamic"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_cut_length_goes_on_where_it_was(name: str, state_dtype: SsmStateDtype, tmp_path: Path) -> None:
    """Prefill, prefill in pieces and token by token: the same bits in every layer and state.

    Only the logits may differ in fp32's last bits: the head is a float product, whose order ONNX Runtime
    chooses by the number of rows.
    """
    model = quantized(CONFIGS[name], state_dtype)
    graph, ids = Graph(model, tmp_path, ("layers.1.hidden",)), tokens(model.config, 1, 40)
    whole = graph.run(ids)
    for cuts in ([17, 23], [1, 38, 1], [1] * 40):
        states, hidden, logits = None, [], []
        for part in torch.split(ids, cuts, dim=1):
            outputs = graph.run(part, states)
            states = graph.next_states(outputs)
            hidden.append(outputs["layers.1.hidden"])
            logits.append(outputs["logits"])
        np.testing.assert_array_equal(np.concatenate(hidden, axis=1), whole["layers.1.hidden"])
        np.testing.assert_allclose(np.concatenate(logits, axis=1), whole["logits"], rtol=0, atol=1e-5)
        for state in graph.table:
            np.testing.assert_array_equal(outputs[state["present"]], whole[state["present"]])


def test_only_the_last_logits_on_request(tmp_path: Path) -> None:
    model = quantized(MAMBA2)
    graph, ids = Graph(model, tmp_path), tokens(MAMBA2, 3, 20)
    whole, last = graph.run(ids)["logits"], graph.run(ids, count=1)["logits"]
    assert last.shape == (3, 1, MAMBA2.vocab_size)
    np.testing.assert_allclose(last, whole[:, -1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("count", "kept"), [(0, 5), (1, 1), (5, 5), (7, 5)])
def test_a_count_of_none_or_too_many_logits_keeps_all(count: int, kept: int, tmp_path: Path) -> None:
    model = quantized(MAMBA2)
    graph, ids = Graph(model, tmp_path), tokens(MAMBA2, 2, 5)
    feed = {"input_ids": ids.numpy(), "num_logits_to_keep": np.array(count), **graph.zeros(2)}
    reference, _ = model.run(ids, num_logits=count)
    assert graph.session.run(["logits"], feed)[0].shape == reference.shape == (2, kept, MAMBA2.vocab_size)


def test_a_model_of_one_channel(tmp_path: Path) -> None:
    """Constants named by their values must not meet."""
    model = quantized(replace(MAMBA2, d_model=4, d_inner=1, headdim=1, d_state=2))
    ids = tokens(model.config, 2, 5)
    np.testing.assert_allclose(Graph(model, tmp_path).run(ids)["logits"], model(ids)[0], atol=1e-5)


def test_sequences_of_a_batch_do_not_touch(tmp_path: Path) -> None:
    model = quantized(MAMBA2_GROUPS)
    graph, ids = Graph(model, tmp_path), tokens(MAMBA2_GROUPS, 3, 30)
    together = graph.run(ids)["logits"]
    for row in range(3):
        np.testing.assert_allclose(
            graph.run(ids[row : row + 1])["logits"][0], together[row], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_graph_is_what_a_builder_and_a_viewer_want(name: str) -> None:
    proto = onnx_from_model(quantized(CONFIGS[name]))
    onnx.shape_inference.infer_shapes(proto, strict_mode=True, check_type=True, data_prop=True)
    assert proto.ir_version <= 10
    assert {o.domain: o.version for o in proto.opset_import} == {"": 19, "quamba": 1}
    ops = [node for node in proto.graph.node if node.domain == "quamba"]
    assert {f.name for f in proto.functions} == {node.op_type for node in ops}
    for node in ops:
        fields = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert (fields["plugin_version"], fields["plugin_namespace"]) == (b"1", b"quamba")
    names = [node.name for node in proto.graph.node]
    assert len(names) == len(set(names))
    assert "layers.0.norm_out/RMSNormQuantize" in names


def test_the_quantized_model_is_near_the_float_model() -> None:
    """W8A8 on scales that fit: the logits keep their direction; a planted fault in one scale loses it."""
    checkpoint, calibration = calibrated(MAMBA2_GROUPS)
    ids = tokens(MAMBA2_GROUPS, 2, 64)
    with torch.no_grad():
        expected, _ = FloatMamba.from_checkpoint(checkpoint)(ids)
    cosine = torch.nn.CosineSimilarity(dim=0)
    found, _ = quantize_model(checkpoint, calibration)(ids)
    assert cosine(found.flatten(), expected.flatten()) > 0.99
    broken = dict(calibration.scales)
    broken["layers.0.out_proj_in"] = broken["layers.0.out_proj_in"] / 20
    lost, _ = quantize_model(checkpoint, replace(calibration, scales=broken))(ids)
    assert cosine(lost.flatten(), expected.flatten()) < 0.99


@pytest.mark.parametrize("config", [MAMBA1, CONFIGS["mamba2 with dt limits"]])
def test_the_record_is_strict_json(config: MambaConfig, tmp_path: Path) -> None:
    """JSON has no Infinity, which Mamba's open dt limit is in Python; other readers refuse the whole file."""
    checkpoint, calibration = calibrated(config)
    (tmp_path / "config.json").write_text("{}")
    checkpoint = replace(checkpoint, path=tmp_path)
    folder = export_onnx(
        quantize_model(checkpoint, calibration), checkpoint, calibration, tmp_path / "export"
    )
    text = (folder / "export.json").read_text()
    record = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in {text}"))
    assert config_from_json(record["config"], folder / "export.json") == config


def test_the_files_of_a_chat_go_with_the_model(tmp_path: Path) -> None:
    checkpoint, calibration = calibrated(MAMBA1)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "A"}')
    model = quantized(MAMBA1)
    export = export_onnx(model, replace(checkpoint, path=folder), calibration, tmp_path / "export")
    assert (export / "tokenizer_config.json").read_text() == '{"chat_template": "A"}'
    assert "tokenizer_config.json" in read_manifest(export).files
