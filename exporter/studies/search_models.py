"""What a search of widths scores and what it counts: mixed models of one checkpoint, and their bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from quamba_export.calib.calibration import Calibration
from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.device import CPU
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.qformat import MIXED, qformat_named
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.exporter.evaluation.evaluate import Distance, batches, log_softmax, windows_a_call
from quamba_export.exporter.evaluation.language_models import Ids
from quamba_export.exporter.inspection.size_formula import SizeFormula, size_formula
from quamba_export.exporter.studies.search import Assignment, Budget, blocks_of
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.targets.target_file import Target


class MixedModels:
    """Models of one checkpoint whose blocks come from uniform ones, each quantized once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        calibration: Calibration,
        choices: Sequence[str],
        ends: tuple[int, int],
        device: torch.device = CPU,
    ) -> None:
        if calibration.weights:
            raise QuambaError(
                "a search rounds weights to several widths",
                found="a calibration with rounded weights, of one width a block",
                fix="search on one without --rounding gptq, then calibrate by the recipe found and with it",
                code=ExitCode.USAGE,
            )
        self.device, (embedding, head) = device, ends
        self._uniform = {
            name: quantize_model(
                checkpoint, calibration, qformat_named(name, embedding_bits=embedding, head_bits=head).name
            ).to(device)
            for name in choices
        }
        self._widths = qformat_named(MIXED, embedding_bits=embedding, head_bits=head)

    def model(self, widths: Assignment) -> QuantizedModel:
        """The model whose layer i has widths[i]."""
        first = self._uniform[widths[0]]
        prefixes = [f"layers.{i}." for i in range(len(widths))]
        tensors = {name: tensor for name, tensor in first.tensors.items() if not name.startswith("layers.")}
        scales: dict[str, float] = {}
        for prefix, name in zip(prefixes, widths, strict=True):
            own = self._uniform[name]
            tensors |= {key: value for key, value in own.tensors.items() if key.startswith(prefix)}
            scales |= {key: value for key, value in own.scales.items() if key.startswith(prefix)}
        return replace(first, tensors=tensors, scales=scales, widths=self._widths, blocks=blocks_of(widths))


class KlScore:
    """KL from the float model on a token stream, in windows; the float model runs once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        models: MixedModels,
        stream: Ids,
        window: int,
        scored: Callable[[], None] = lambda: None,
    ) -> None:
        at_once = windows_a_call("prefill", window * checkpoint.config.vocab_size)
        self._models, self._scored = models, scored
        self._batches = list(batches(stream, window, at_once))
        exact = FloatMamba.from_checkpoint(checkpoint).to(models.device)
        self._expected = [log_softmax(_logits(exact, batch, models.device)) for batch in self._batches]

    def __call__(self, widths: Assignment) -> float:
        model, distance = self._models.model(widths), Distance()
        for batch, expected in zip(self._batches, self._expected, strict=True):
            distance.add(expected, log_softmax(_logits(model, batch, self._models.device)))
        self._scored()
        return distance.mean_kl


@torch.inference_mode()
def _logits(model: FloatMamba | QuantizedModel, batch: Ids, device: torch.device) -> np.ndarray:
    """(B, L) -> (B, L - 1, V) fp32: those of the tokens that are scored."""
    logits, _ = model(torch.from_numpy(np.ascontiguousarray(batch[:, :-1])).to(device))
    return np.asarray(logits.cpu().numpy())


def size_budget(config: MambaConfig, ends: tuple[int, int], megabytes: float) -> Budget:
    """Bytes of the weights by exporter/inspection/size_formula.py, in MB of 10^6."""

    def cost(widths: Assignment) -> float:
        return _formula(config, ends, widths).total / 1e6

    return Budget(cost, megabytes, "MB")


def latency_budget(config: MambaConfig, ends: tuple[int, int], target: Target, ms: float) -> Budget:
    """Predicted floor of a token (exporter/speed/predicted_floors.py): weights that it reads, states twice.

    Raises QuambaError (exit 2) for a target without a memory bandwidth.
    """
    if not target.bandwidth_gb_per_s:
        raise QuambaError(
            f"{target.name} has no bandwidth, so no latency can be predicted",
            found=f"--target {target.name}",
            allowed="a target of `quamba-export targets list` with GB/s",
            code=ExitCode.USAGE,
        )
    embedding = (
        config.vocab_size * config.d_model * qformat_named(MIXED, embedding_bits=ends[0]).embedding_bits // 8
    )

    def cost(widths: Assignment) -> float:
        conv = sum(block.activation_bits // 8 for block in blocks_of(widths)) * int(
            np.prod(config.conv_state_shape)
        )
        state = conv + 2 * config.n_layer * int(np.prod(config.ssm_state_shape))
        read = _formula(config, ends, widths).total - embedding
        return (read + 2 * state) / (1e6 * target.bandwidth_gb_per_s)

    return Budget(cost, ms, "ms")


def _formula(config: MambaConfig, ends: tuple[int, int], widths: Assignment) -> SizeFormula:
    embedding, head = ends
    return size_formula(
        config, qformat_named(MIXED, embedding_bits=embedding, head_bits=head), blocks_of(widths)
    )
