"""What a folder holds, as facts: a checkpoint, calibration/, export/ or bundle/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quamba_export.exporter.artefacts import artefact_kind, require_graph
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from quamba_export.exporter.layer_scale_table import ScaleEntry

GROUPS = ("embedding", "lm_head", "in_proj", "x_proj", "dt_proj", "out_proj", "conv1d")  # the rest is "other"


@dataclass(frozen=True)
class CheckpointFacts:
    """A float model as it is stored."""

    kind: str
    path: str
    digest: str
    config: dict[str, Any]
    parameters: int
    bytes_by_group: dict[str, int]  # as stored
    tokenizer: bool
    eos_token_id: int


@dataclass(frozen=True)
class GraphFacts:
    """An exported graph, in export/ or in a bundle for CPU."""

    kind: str
    path: str
    digest: str
    producer: str
    target: str
    qformat: str
    config: dict[str, Any]
    sources: dict[str, str | None]
    files: dict[str, int]  # bytes by name
    bytes_by_group: dict[str, int]  # of the graph's constants
    state_bytes: dict[str, int]  # "conv" and "ssm", of one sequence
    state_dtypes: dict[str, str]
    nodes: dict[str, int]  # count by operator
    layer: int
    layer_table: list[ScaleEntry]


def inspect_path(source: str, layer: int = 0) -> Any:
    """Facts of whatever `source` is; `layer` picks the layer scale table.

    Raises QuambaError for what the readers of the four folders refuse.
    """
    kind = artefact_kind(Path(source))
    if kind == "checkpoint":
        if Path(source).is_dir() and not (Path(source) / "config.json").exists():
            raise QuambaError(
                f"{source} is nothing that quamba-export knows",
                found="no config.json, calibration.json, export.json or manifest.json in it",
                allowed="a checkpoint, calibration/, export/ or bundle/",
            )
        return inspect_checkpoint(source)
    if kind == "calibration":
        from quamba_export.exporter.inspect_scales import inspect_calibration

        return inspect_calibration(Path(source), layer)
    return inspect_graph(Path(source), layer)


def inspect_checkpoint(source: str) -> CheckpointFacts:
    from quamba_export.calib.checkpoint import load_checkpoint
    from quamba_export.calib.weight_files import stored_tensors

    checkpoint = load_checkpoint(source)
    stored = ((entry.name, entry.tensor.nbytes) for entry in stored_tensors(checkpoint.path))
    return CheckpointFacts(
        kind="checkpoint",
        path=source,
        digest=checkpoint.digest,
        config=asdict(checkpoint.config),
        parameters=sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        bytes_by_group=bytes_by_group(stored),
        tokenizer=checkpoint.tokenizer_path is not None,
        eos_token_id=checkpoint.eos_token_id,
    )


def inspect_graph(path: Path, layer: int = 0) -> GraphFacts:
    import math

    import onnx

    from quamba_export.exporter.layer_scale_table import exported_layer_table
    from quamba_export.runtime.manifest import read_manifest

    manifest = read_manifest(path)
    check_layer(layer, manifest.config["n_layer"])
    graph = onnx.load(str(require_graph(path, manifest)), load_external_data=False).graph
    constants = (
        (
            tensor.name,
            math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize,
        )
        for tensor in graph.initializer
    )
    states = {name: [s for s in manifest.states if f"_{name}_" in s.past] for name in ("conv", "ssm")}
    return GraphFacts(
        kind=manifest.kind,
        path=str(path),
        digest=manifest.digest,
        producer=manifest.producer,
        target=manifest.target,
        qformat=manifest.qformat,
        config=dict(manifest.config),
        sources=dict(manifest.sources),
        files={name: entry.size for name, entry in manifest.files.items()},
        bytes_by_group=bytes_by_group(constants),
        state_bytes={name: sum(state.nbytes for state in table) for name, table in states.items()},
        state_dtypes={name: table[0].dtype for name, table in states.items()},
        nodes=dict(Counter(node.op_type for node in graph.node).most_common()),
        layer=layer,
        layer_table=exported_layer_table(path, graph, manifest.config, layer),
    )


def check_layer(layer: int, n_layer: int) -> None:
    """Raise QuambaError (exit 2) for a layer the model has not."""
    if layer >= n_layer:
        allowed = f"0 to {n_layer - 1}"
        raise QuambaError("no such layer", found=f"--layer {layer}", allowed=allowed, code=ExitCode.USAGE)


def bytes_by_group(tensors: Iterable[tuple[str, int]]) -> dict[str, int]:
    """(name, bytes) of tensors -> bytes by kind of weight, in the order of GROUPS, then "other"."""
    total = Counter[str]()
    for name, size in tensors:
        total[next((group for group in GROUPS if group in name), "other")] += size
    return {group: total[group] for group in (*GROUPS, "other") if total[group]}
