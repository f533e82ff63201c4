"""One variant of a sweep scored beside the float model, and what its scan input is made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from quamba_export.calib.calibration import Calibration, read_calibration
from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.data import Tokens, token_stream
from quamba_export.calib.device import torch_device
from quamba_export.calib.model.qformat import qformat_named
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.scan_input import ScanInput, with_scan_input
from quamba_export.exporter.evaluation.cloze import read_passages, with_cloze
from quamba_export.exporter.evaluation.evaluate import evaluate
from quamba_export.exporter.evaluation.language_models import open_checkpoint, open_reference
from quamba_export.exporter.evaluation.task_scores import task_scores
from quamba_export.plugins.common.quantization import INT8_MAX
from quamba_export.plugins.ScanInputCausalConv1d.op import dual_scale

if TYPE_CHECKING:
    from quamba_export.exporter.studies.sweep import Study
    from quamba_export.exporter.studies.variants import Variant

KEPT = ("perplexity", "against_perplexity", "kl", "top1_agreement", "tokens", "bits_per_byte")
KEPT_OF_CLOZE = ("cloze_accuracy", "cloze_standard_error", "cloze_passages", "against_cloze_accuracy")
OUTLIER_TOKENS = 512  # of the scored text, for the share of outliers


def score_variant(study: Study, variant: Variant, calibration: Path) -> dict[str, Any]:
    """Scores by mode, last words in the last, and of tasks; of x: outliers, how many became 0, bytes to the
    scan.

    Raises QuambaError as evaluate does.
    """
    against = open_checkpoint(study.checkpoint, study.device)
    given = None if qformat_named(variant.qformat).of_floats else calibration
    form = variant.qformat, variant.ssm_state_dtype, variant.ssm_input
    model = open_reference(study.checkpoint, given, *form, study.device)
    stream = token_stream(study.score, model.tokenizer_path, model.eos_token_id, limit=study.max_tokens)
    found: dict[str, Any] = {"variant": variant.name}
    for mode in study.modes:
        result = evaluate(model, stream, window=study.window, mode=mode, against=against)
        if study.cloze and mode == study.modes[0]:
            result = with_cloze(result, model, against, read_passages(study.score, study.cloze))
        facts = result.present_fields()
        found[mode] = {key: facts[key] for key in (*KEPT, *KEPT_OF_CLOZE) if key in facts}
        found[mode]["ratio"] = result.perplexity / found[mode]["against_perplexity"]
    if study.tasks:
        found["tasks"] = task_scores(model, study.tasks)
    return found | scan_input_facts(study, read_calibration(calibration), variant, stream)


def scan_input_facts(
    study: Study, calibration: Calibration, variant: Variant, stream: Tokens
) -> dict[str, Any]:
    """Of x on the first tokens scored; none where no block has int8 activations, or x is smoothed."""
    given = None if qformat_named(variant.qformat).of_floats else calibration
    model = quantize_model(load_checkpoint(study.checkpoint), given, variant.qformat)
    model = model.to(torch_device(study.device))
    if calibration.recipe.smoothing is not None or any(block.activation_bits != 8 for block in model.blocks):
        return {}
    mode, config = variant.ssm_input, model.config
    studied = with_scan_input(model, calibration, mode if mode.is_float else ScanInput("simulated-int8"))
    values = outliers = zeros = 0
    for i, x in enumerate(unquantized_inputs(model, calibration, stream[:OUTLIER_TOKENS])):
        part = slice(0, config.d_inner)
        scale = model.tensors[f"layers.{i}.conv1d.out_scale"][part]
        other = studied.tensors[f"layers.{i}.conv1d.outlier_scale"][part]
        largest = mode.largest_code if mode.is_float and mode.largest_code else int(INT8_MAX)
        codes = torch.round(x / scale)
        outlier = (codes < -largest - 1) | (codes > largest)
        values, outliers = values + x.numel(), outliers + int(outlier.sum())
        zeros += int((outlier & (dual_scale(x, scale, other, largest) == 0)).sum())
    return {
        "outlier_share": outliers / values,
        "zeroed_outlier_share": zeros / outliers if outliers else 0.0,
        "scan_input_bytes_a_token": config.n_layer * config.d_inner * mode.bits / 8,
    }


def unquantized_inputs(model: QuantizedModel, calibration: Calibration, tokens: Tokens) -> list[torch.Tensor]:
    """fp32 x (L, E) of every layer, before it is rounded."""
    found: list[torch.Tensor] = []

    def tap(site: str, value: torch.Tensor) -> None:
        if site.endswith(".x"):
            found.append(value.reshape(value.shape[1], -1))

    ids = torch.from_numpy(tokens[None]).to(model.device)
    with_scan_input(model, calibration, ScanInput("fp32")).run(ids, tap=tap)
    return found
