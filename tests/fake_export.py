"""An export/ directory that passes every check of its manifest without holding a model."""

import json
from pathlib import Path
from typing import Any

from quamba_export.runtime.manifest import files_of

FILES = {
    "model.onnx": b"graph",
    "model.onnx.data": b"weights" * 100,
    "config.json": b'{"quantization_config": {"ssm_state_dtype": "float16"}}',
    "generation_config.json": b"{}",
    "tokenizer.json": b"{}",
}


def write_fake_export(folder: Path, **changes: Any) -> Path:
    """Write it; `changes` are keys of export.json with other values."""
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    record = {
        "schema_version": 1,
        "kind": "export",
        "producer": "quamba-export test",
        "checkpoint_digest": "a" * 64,
        "calibration_digest": "b" * 64,
        "qformat": "w8a8",
        "config": {"vocab_size": 8},
        "eos_token_id": 0,
        "states": [
            {
                "past": "past_conv_states.0",
                "present": "present_conv_states.0",
                "dtype": "int8",
                "shape": [4, 3],
            },
            {
                "past": "past_ssm_states.0",
                "present": "present_ssm_states.0",
                "dtype": "float16",
                "shape": [4, 2],
            },
        ],
        "files": files_of(folder),
    }
    (folder / "export.json").write_text(json.dumps(record | changes))
    return folder
