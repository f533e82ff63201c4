"""What a folder holds, as facts: a checkpoint, calibration/, export/ or bundle/."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quamba_export.exporter.artefacts import artefact_kind, recorded_state_dtype
from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from quamba_export.exporter.report.layer_scale_table import ScaleEntry

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
class ManifestFacts:
    """What a manifest says, of every export/ and bundle/."""

    kind: str
    path: str
    digest: str
    producer: str
    target: str
    qformat: str
    config: dict[str, Any]
    sources: dict[str, str | None]
    files: dict[str, int]  # bytes by name
    state_bytes: dict[str, int]  # "conv" and "ssm", of one sequence
    state_dtypes: dict[str, str]
    bytes_by_group: dict[str, int]  # of the weights


@dataclass(frozen=True)
class EngineFacts(ManifestFacts):
    """TensorRT plans in a bundle."""

    engine: dict[str, Any]  # its record in the manifest, without the table of weights


@dataclass(frozen=True)
class GraphFacts(ManifestFacts):
    """An exported graph, in export/ or in a bundle for CPU."""

    size: dict[str, int]  # bytes of all constants, and by the formula of exporter/inspection/size_formula.py
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
        from quamba_export.exporter.inspection.inspect_scales import inspect_calibration

        return inspect_calibration(Path(source), layer)
    return inspect_manifest(Path(source), layer)


def inspect_checkpoint(source: str) -> CheckpointFacts:
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.checkpoints.weight_files import stored_tensors

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


def inspect_manifest(path: Path, layer: int = 0) -> GraphFacts | EngineFacts:
    manifest = read_manifest(path)
    if manifest.engine is not None:
        return inspect_engines(path, manifest, manifest.engine)
    return inspect_graph(path, manifest, layer)


def inspect_engines(path: Path, manifest: Manifest, record: EngineRecord) -> EngineFacts:
    engine = asdict(record)
    del engine["weights"]
    sizes = ((weight.name, weight.end - weight.offset) for weight in record.weights)
    return EngineFacts(**manifest_facts(path, manifest), bytes_by_group=bytes_by_group(sizes), engine=engine)


def inspect_graph(path: Path, manifest: Manifest, layer: int) -> GraphFacts:
    import onnx

    from quamba_export.calib.calibration_checks import config_from_json
    from quamba_export.exporter.inspection.size_formula import constant_bytes, graph_formula
    from quamba_export.exporter.report.layer_scale_table import exported_layer_table

    check_layer(layer, manifest.config["n_layer"])
    graph = onnx.load(str(path / "model.onnx"), load_external_data=False).graph
    constants = constant_bytes(graph.initializer)
    config = config_from_json(dict(manifest.config), path / f"{manifest.kind}.json")
    formula = graph_formula(config, manifest.qformat, graph)
    return GraphFacts(
        **manifest_facts(path, manifest),
        bytes_by_group=bytes_by_group(constants.items()),
        size={"stored": sum(constants.values()), "formula": formula.total, **asdict(formula)},
        nodes=dict(Counter(node.op_type for node in graph.node).most_common()),
        layer=layer,
        layer_table=exported_layer_table(path, graph, manifest.config, layer),
    )


def manifest_facts(path: Path, manifest: Manifest) -> dict[str, Any]:
    """ManifestFacts' fields but the last."""
    states = {name: [s for s in manifest.states if f"_{name}_" in s.past] for name in ("conv", "ssm")}
    return {
        "kind": manifest.kind,
        "path": str(path),
        "digest": manifest.digest,
        "producer": manifest.producer,
        "target": manifest.target,
        "qformat": manifest.qformat,
        "config": dict(manifest.config),
        "sources": dict(manifest.sources),
        "files": {name: entry.size for name, entry in manifest.files.items()},
        "state_bytes": {name: sum(state.nbytes for state in table) for name, table in states.items()},
        "state_dtypes": {
            "conv": ", ".join(sorted({state.dtype for state in states["conv"]})),
            "ssm": recorded_state_dtype(path),
        },
    }


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
