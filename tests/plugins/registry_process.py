"""A process of its own with TensorRT's plugin registry (the lean runtime's, which needs no GPU).

    python registry_process.py LIBRARY < requests.json > answers.json

requests: [[op, [[field, type, values], ...]], ...]; answers: the creators, and for each request the error
text of the library, empty where the plugin was created. Ends without teardown, which needs a driver.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorrt_lean_bindings as trt

NUMPY = {"FLOAT32": np.float32, "INT32": np.int32, "INT64": np.int64, "FLOAT64": np.float64}


def create(registry: trt.IPluginRegistry, op: str, fields: list[tuple[str, str, list[float]]]) -> str:
    """The library's error text (it logs to stderr where no engine has a logger), empty on success."""
    made = [
        trt.PluginField(name, np.array(values, NUMPY[kind]), getattr(trt.PluginFieldType, kind))
        for name, kind, values in fields
    ]
    creator = registry.get_creator(op, "1", "quamba")
    with tempfile.TemporaryFile() as text:
        kept = os.dup(2)
        os.dup2(text.fileno(), 2)
        plugin = creator.create_plugin("node", trt.PluginFieldCollection(made), trt.TensorRTPhase.BUILD)
        os.dup2(kept, 2)
        os.close(kept)
        text.seek(0)
        message = text.read().decode()
    if (plugin is None) != bool(message):
        raise RuntimeError(f"{op}: created {plugin}, said {message!r}")
    return message


def main() -> None:
    registry = trt.get_plugin_registry()
    registry.load_library(str(Path(sys.argv[1]).resolve()))
    creators = {
        creator.name: [
            creator.plugin_version,
            [[field.name, field.type.name] for field in creator.field_names],
        ]
        for creator in registry.all_creators
        if creator.plugin_namespace == "quamba"
    }
    errors = [create(registry, op, fields) for op, fields in json.load(sys.stdin)]
    print(json.dumps({"creators": creators, "errors": errors}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
