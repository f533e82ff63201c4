"""`quamba-export export`: the quantized model as one ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import (
    EmbeddingBits,
    FloatSimAsicInt8,
    FloatSimAsicResearchSe,
    Fp32SsmInput,
    Json,
    LmHeadBits,
    Output,
    QFormat,
    ScaleFactor,
    SsmInput,
    SsmStateDtype,
    W4a5Se,
    chosen_scan_input,
)

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.inspection.inspect import ManifestFacts


def export(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint directory or hub id.")],
    out: Output,
    calibration: Annotated[
        Path | None,
        typer.Option(help="The calibration/ directory made from it; w4a16, w8a16, fp16 and fp32 need none."),
    ] = None,
    qformat: QFormat = "w8a8",
    embedding_bits: EmbeddingBits = None,
    lm_head_bits: LmHeadBits = None,
    ssm_state_dtype: SsmStateDtype = None,
    ssm_input: SsmInput = None,
    scale_factor: ScaleFactor = None,
    fp32_ssm_input: Fp32SsmInput = False,
    float_sim_asic_int8: FloatSimAsicInt8 = False,
    float_sim_asic_research_se: FloatSimAsicResearchSe = False,
    w4a5_se: W4a5Se = False,
    as_json: Json = False,
) -> None:
    """Quantize a checkpoint with the scales of its calibration and write it as ONNX, states in and out.

    Example: quamba-export export CHECKPOINT --calibration calibration/ -o export/
    """
    from quamba_export.calib.calibration import read_calibration
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.model.qformat import qformat_named
    from quamba_export.calib.model.quantize_model import quantize_model
    from quamba_export.calib.model.scan_input import ScanInput, with_scan_input
    from quamba_export.exporter.artefacts import tell_replaced
    from quamba_export.exporter.graph.onnx_export import export_onnx
    from quamba_export.exporter.inspection.inspect import inspect_manifest

    aliases = fp32_ssm_input, float_sim_asic_int8, float_sim_asic_research_se, w4a5_se
    study = chosen_scan_input(ssm_input, scale_factor, *aliases) or ScanInput()
    widths = qformat_named(qformat, embedding_bits=embedding_bits, head_bits=lm_head_bits)
    source = load_checkpoint(checkpoint)
    tell_replaced(out, "export")
    scales = read_calibration(calibration) if calibration else None
    state = ssm_state_dtype or widths.ssm_state_dtype
    model = quantize_model(source, scales, qformat=widths.name, ssm_state_dtype=state)
    export_onnx(with_scan_input(model, scales, study), source, scales, out)
    facts = inspect_manifest(out)
    emit(facts, as_json, lambda console: show(facts, console))


def show(facts: ManifestFacts, console: Console) -> None:
    console.print(f"[bold]{facts.path}[/] {facts.qformat}, scan state {facts.state_dtypes['ssm']}")
    for name, size in facts.files.items():
        console.print(f"  {size:>12,} bytes  {name}")
    console.print(f"  {sum(facts.state_bytes.values()):>12,} bytes  state of one sequence")
