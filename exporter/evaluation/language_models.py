"""Whatever gives next-token logits, behind one call: a checkpoint, its quantized reference, export/, bundle/.

`open_language_model` finds out what a path holds. Arrays are numpy: scoring does not care which it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from quamba_export.calib.model.state_dtype import SsmStateDtype
from quamba_export.exporter.artefacts import (
    artefact_kind,
    engine_name,
    recorded_scan_input,
    recorded_state_dtype,
)
from quamba_export.runtime.engine import MAX_BATCH, Engine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.ort_session import Provider

if TYPE_CHECKING:
    import torch

    from quamba_export.calib.model.scan_input import ScanInput

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]
ModelKind = Literal["checkpoint", "reference", "export", "bundle"]


class Forward(Protocol):
    """A call of a model on input_ids (B, L) behind states; None is the state before any token.

    Returns the logits of the last `num_logits` positions, all by default, (B, num_logits, V) fp32, and the
    states after the last token, of whatever type they are.
    """

    def __call__(
        self, input_ids: Ids, states: Any, num_logits: int | None = None, /
    ) -> tuple[Logits, Any]: ...


@dataclass(frozen=True)
class LanguageModel:
    """A model ready to be scored.

    engine:  what computes: PyTorch, ONNX Runtime, TensorRT.
    max_batch: the largest B.
    """

    path: str
    kind: ModelKind
    qformat: str
    ssm_state_dtype: str
    vocab_size: int
    eos_token_id: int
    tokenizer_path: Path
    engine: str
    forward: Forward
    ssm_input: str = "int8"  # what the scan gets for x (calib/model/scan_input.py)
    max_batch: int = MAX_BATCH

    @property
    def is_float(self) -> bool:
        """No state of it is rounded: prefill and decode find the same, up to fp32's rounding."""
        return self.kind == "checkpoint"


def open_language_model(
    source: str,
    *,
    calibration: Path | None = None,
    qformat: str | None = None,
    ssm_state_dtype: SsmStateDtype | None = None,
    ssm_input: ScanInput | None = None,
    provider: Provider | None = None,
    device: str = "cpu",
) -> LanguageModel:
    """Open `source`; with `calibration` or `qformat`, a checkpoint becomes its quantized PyTorch reference.

    qformat: w8a8 with a calibration that goes without. ssm_state_dtype: the format's own where it is None.
    provider: of an export or bundle in ONNX Runtime, see open_bundle. device: of a PyTorch model, see
    torch_device. Raises QuambaError where `source` is none of the four, or has no tokenizer, or has no use
    for a provider or device (exit 2).
    """
    kind = artefact_kind(Path(source))
    if kind == "calibration":
        raise QuambaError(
            f"{source} holds scales, not a model",
            found="a calibration/ directory",
            allowed="a checkpoint, export/ or bundle/",
            fix=f"name the checkpoint and add `--calibration {source}`",
        )
    if kind != "checkpoint":
        if device != "cpu":
            raise QuambaError(
                f"{source} does not run in PyTorch, so it has no device to choose",
                found=f"--device {device} for {kind}/",
                allowed="a checkpoint; an export/ or a bundle/ takes --provider",
                code=ExitCode.USAGE,
            )
        return open_graph(Path(source), kind, provider)
    if provider is not None:
        raise QuambaError(
            f"{source} does not run in ONNX Runtime, so it has no provider to choose",
            found=f"--provider {provider} for a checkpoint",
            allowed="an export/ or bundle/",
            code=ExitCode.USAGE,
        )
    if calibration is None and qformat is None:
        return open_checkpoint(source, device)
    return open_reference(source, calibration, qformat or "w8a8", ssm_state_dtype, ssm_input, device)


def open_checkpoint(source: str, device: str = "cpu") -> LanguageModel:
    """The float model of a checkpoint."""
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.device import torch_device
    from quamba_export.calib.model.float_model import FloatMamba

    place = torch_device(device)
    checkpoint = load_checkpoint(source)
    return LanguageModel(
        path=source,
        kind="checkpoint",
        qformat="fp32",
        ssm_state_dtype="float32",
        vocab_size=checkpoint.config.vocab_size,
        eos_token_id=checkpoint.eos_token_id,
        tokenizer_path=require_tokenizer(checkpoint.tokenizer_path, source),
        engine=_torch_on(place),
        forward=torch_forward(FloatMamba.from_checkpoint(checkpoint).to(place), place),
    )


def open_reference(
    source: str,
    calibration: Path | None,
    qformat: str,
    ssm_state_dtype: SsmStateDtype | None = None,
    ssm_input: ScanInput | None = None,
    device: str = "cpu",
) -> LanguageModel:
    """The quantized PyTorch model, the ground truth of the exported graph."""
    from quamba_export.calib.calibration import read_calibration
    from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
    from quamba_export.calib.device import torch_device
    from quamba_export.calib.model.qformat import qformat_named
    from quamba_export.calib.model.quantize_model import quantize_model
    from quamba_export.calib.model.scan_input import ScanInput, with_scan_input

    place = torch_device(device)
    checkpoint = load_checkpoint(source)
    scales = read_calibration(calibration) if calibration else None
    state = ssm_state_dtype or qformat_named(qformat).ssm_state_dtype
    model = quantize_model(checkpoint, scales, qformat=qformat, ssm_state_dtype=state)
    model = with_scan_input(model, scales, ssm_input or ScanInput())
    return LanguageModel(
        path=source,
        kind="reference",
        qformat=model.qformat,
        ssm_state_dtype=state,
        vocab_size=checkpoint.config.vocab_size,
        eos_token_id=checkpoint.eos_token_id,
        tokenizer_path=require_tokenizer(checkpoint.tokenizer_path, source),
        engine=_torch_on(place),
        forward=torch_forward(model.to(place), place),
        ssm_input=model.ssm_input.mode,
    )


def open_graph(path: Path, kind: ModelKind, provider: Provider | None = None) -> LanguageModel:
    """An export/ or bundle/ on the engine that a device runs it with."""
    from quamba_export.runtime.bundle import open_model

    manifest, engine = open_model(path, provider=provider)
    return LanguageModel(
        path=str(path),
        kind=kind,
        qformat=manifest.qformat,
        ssm_state_dtype=recorded_state_dtype(path),
        vocab_size=manifest.vocab_size,
        eos_token_id=manifest.eos_token_id,
        tokenizer_path=require_tokenizer(path / "tokenizer.json", str(path)),
        engine=engine_name(manifest, provider),
        forward=engine_forward(engine),
        ssm_input=recorded_scan_input(path),
        max_batch=manifest.engine.max_batch if manifest.engine else MAX_BATCH,
    )


def engine_forward(engine: Engine) -> Forward:
    """The call of the engine that a device runs; on TensorRT every logit costs a call of its own."""

    def forward(input_ids: Ids, states: Any, num_logits: int | None = None, /) -> tuple[Logits, Any]:
        batch, length = input_ids.shape
        return engine.run(input_ids, states or engine.zero_states(batch), num_logits=num_logits or length)

    return forward


def torch_forward(model: Callable[..., Any], device: torch.device | str = "cpu") -> Forward:
    """The call of a PyTorch model on `device` with numpy ids and logits."""
    import torch

    @torch.inference_mode()
    def forward(input_ids: Ids, states: Any, num_logits: int | None = None, /) -> tuple[Logits, Any]:
        logits, after = model(torch.from_numpy(np.ascontiguousarray(input_ids)).to(device), states)
        return logits[:, -(num_logits or logits.shape[1]) :].cpu().numpy(), after

    return forward


def padded(rows: Sequence[Sequence[int] | Ids], fill: int) -> Ids:
    """(B, L), filled behind the end: what comes later changes nothing before it."""
    batch = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for line, row in zip(batch, rows, strict=True):
        line[: len(row)] = row
    return batch


def _torch_on(device: torch.device) -> str:
    """The engine's name."""
    return "PyTorch" if device.type == "cpu" else f"PyTorch on {device}"


def require_tokenizer(path: Path | None, source: str) -> Path:
    if path is None or not path.is_file():
        raise QuambaError(
            f"{source} has no tokenizer.json, so text cannot be scored",
            found="no tokenizer.json",
            allowed="a tokenizer in the Hugging Face tokenizers format",
            fix="copy the model's tokenizer.json into the folder",
        )
    return path
