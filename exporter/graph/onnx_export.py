"""QuantizedModel -> export/: one ONNX file with carried states, weights beside it, configs, tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import from_array

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.calibration_checks import config_to_json
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.model.network import forward
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.output_directory import written_directory
from quamba_export.exporter.graph.onnx_backend import OnnxBackend, Value
from quamba_export.exporter.graph.weight_file import WeightFile
from quamba_export.runtime.manifest import files_of

SCHEMA_VERSION = 1
MODEL, DATA = "model.onnx", "model.onnx.data"
CHAT_FILES = ("tokenizer_config.json", "chat_template.jinja")  # where a checkpoint has them


def export_onnx(
    model: QuantizedModel, checkpoint: Checkpoint, calibration: Calibration | None, out_dir: Path
) -> Path:
    """Write export/ atomically: an existing export is replaced only by a whole one.

    calibration: the one that `model` was made with, or None.
    """
    with written_directory(out_dir, "export") as work:
        write_model(model, work)
        _write_configs(model, checkpoint, work)
        _write_json(work / "export.json", _export_record(model, checkpoint, calibration, work))
    return out_dir


def write_model(model: QuantizedModel, directory: Path) -> None:
    """model.onnx and model.onnx.data; memory holds no second copy of a weight."""
    with (directory / DATA).open("wb") as data:
        graph = onnx_from_model(model, WeightFile(data, DATA))
    (directory / MODEL).write_bytes(graph.SerializeToString())
    onnx.checker.check_model(str(directory / MODEL), full_check=True)


def onnx_from_model(
    model: QuantizedModel, initializer: Callable[[NDArray[Any], str], onnx.TensorProto] = from_array
) -> onnx.ModelProto:
    """The graph: input_ids and num_logits and the past states in, logits and the present states out.

    initializer: where its weights go, as in OnnxBackend; by default they are in the graph.
    """
    net, config = OnnxBackend(model.tensors, initializer), model.config
    input_ids = Value("input_ids", "int64", ("batch", "length"))
    count = Value("num_logits_to_keep", "int64", ())
    layers = range(config.n_layer)
    conv = [
        Value(f"past_conv_states.{i}", model.block(i).conv_state_dtype, ("batch", *config.conv_state_shape))
        for i in layers
    ]
    ssm = [
        tuple(Value(f"past_{kind}.{i}", dtype, ("batch", *shape)) for kind, dtype, shape in scan_state(model))
        for i in layers
    ]
    logits, conv_out, ssm_out = forward(net, model, input_ids, conv, ssm, count)
    net.rename(logits, "logits")
    for i in layers:
        net.rename(conv_out[i], f"present_conv_states.{i}")
        for (kind, _, _), value in zip(scan_state(model), ssm_out[i], strict=True):
            net.rename(value, f"present_{kind}.{i}")
    producer = f"quamba-export {version('quamba-export')}"
    return net.model_proto(
        [input_ids, count, *conv, *chain(*ssm)], [logits, *conv_out, *chain(*ssm_out)], producer
    )


def scan_state(model: QuantizedModel) -> list[tuple[str, str, tuple[int, ...]]]:
    """The tensors of a layer's scan state: kind, dtype, shape without the batch."""
    shape = model.config.ssm_state_shape
    if model.dynamic_state:
        return [("ssm_states", "int8", shape), ("ssm_scales", "float32", shape[:-1])]
    return [("ssm_states", model.ssm_state_dtype, shape)]


def state_table(model: QuantizedModel) -> list[dict[str, Any]]:
    """Every state of the graph: input and output name, dtype and shape without the batch."""
    config = model.config
    convolutions: list[str] = [block.conv_state_dtype for block in model.blocks]
    kinds: list[tuple[str, list[str], tuple[int, ...]]] = [
        ("conv_states", convolutions, config.conv_state_shape)
    ]
    kinds += [(kind, [dtype] * config.n_layer, shape) for kind, dtype, shape in scan_state(model)]
    return [
        {
            "past": f"past_{kind}.{i}",
            "present": f"present_{kind}.{i}",
            "dtype": dtype,
            "shape": list(shape),
        }
        for kind, dtypes, shape in kinds
        for i, dtype in enumerate(dtypes)
    ]


def _write_configs(model: QuantizedModel, checkpoint: Checkpoint, directory: Path) -> None:
    config = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "quamba",
        "qformat": model.qformat,
        "ssm_state_dtype": model.ssm_state_dtype,
    }
    if model.ssm_input.mode != "int8":
        config["quantization_config"]["ssm_input"] = model.ssm_input.mode
    if model.smoothed:
        config["quantization_config"]["smoothed"] = True
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", {"eos_token_id": checkpoint.eos_token_id})
    if checkpoint.tokenizer_path is not None:
        shutil.copyfile(checkpoint.tokenizer_path, directory / "tokenizer.json")
    for name in CHAT_FILES:
        if (checkpoint.path / name).is_file():
            shutil.copyfile(checkpoint.path / name, directory / name)


def _export_record(
    model: QuantizedModel, checkpoint: Checkpoint, calibration: Calibration | None, directory: Path
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "export",
        "producer": f"quamba-export {version('quamba-export')}",
        "checkpoint_digest": checkpoint.digest,
        "calibration_digest": None if calibration is None else calibration.digest,
        "qformat": model.qformat,
        "config": config_to_json(model.config),
        "eos_token_id": checkpoint.eos_token_id,
        "states": state_table(model),
        "files": files_of(directory),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
