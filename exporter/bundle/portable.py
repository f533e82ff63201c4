"""A portable bundle: an export/ with all that a device needs to build its own engines, without torch.

That is the graphs as TensorRT parses them (exporter/tensorrt/graph.py reads the ops' contracts, which import
torch) and the sources of the plugins. Both depend on the export alone, not on the device. It is still an
export/: `build` makes a bundle of it for any target, ONNX Runtime on the CPU among them.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from quamba_export.calib.output_directory import written_directory
from quamba_export.exporter.artefacts import copy_checked, verified_bytes
from quamba_export.exporter.plugin_build.sources import own_sources, write_sources
from quamba_export.runtime.folder_check import GRAPHS, PLUGIN_SOURCES
from quamba_export.runtime.manifest import Manifest, files_of, read_manifest


def write_portable(export: Path, source: Manifest, out: Path) -> Manifest:
    """Write the verified export/ once more at `out`, with graphs and sources; returns its manifest."""
    with written_directory(out, "export") as folder:
        copy_checked(export, source, folder, source.files)
        for name, graph in engine_graphs(folder, own=True).items():
            (folder / GRAPHS[name]).write_bytes(graph.SerializeToString(deterministic=True))
        write_sources(own_sources(), folder / PLUGIN_SOURCES)
        record = json.loads(verified_bytes(export / "export.json", source.digest))
        record["portable"] = {"export": source.export_digest}
        record["files"] = files_of(folder)
        (folder / "export.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return read_manifest(out)


def engine_graphs(export: Path, *, own: bool = False) -> dict[str, onnx.ModelProto]:
    """The graphs of the decode and the prefill engine by name, their data left in model.onnx.data.

    Those that a portable bundle carries; else, and always with `own`, made of model.onnx.
    """
    if not own and all((export / name).is_file() for name in GRAPHS.values()):
        paths = {name: export / file for name, file in GRAPHS.items()}
        return {name: onnx.load(str(path), load_external_data=False) for name, path in paths.items()}
    from quamba_export.exporter.tensorrt.graph import tensorrt_graph  # imports torch

    model = onnx.load(str(export / "model.onnx"), load_external_data=False)
    return {name: tensorrt_graph(model, weights_as_inputs=True, steps=name == "decode") for name in GRAPHS}
