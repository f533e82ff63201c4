"""What each way of holding the scan state costs in decode: perplexity and KL, one line a format.

    python -m quamba_export.calib.studies.state_study CHECKPOINT --calibration calibration --data valid.txt

All formats of state_formats.py go through the text token by token, side by side in one batch: projections,
convolution and codes are those of the quantized reference, the scan is its recurrence with sums in torch's
order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from quamba_export.calib.calibration import read_calibration
from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.data import token_stream, windows
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.network import forward
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.calib.model.states import States
from quamba_export.calib.model.torch_backend import TorchBackend
from quamba_export.calib.studies.state_formats import Held, study_formats
from quamba_export.plugins.common.precise import exp, silu, softplus
from quamba_export.plugins.common.quantization import dequantize
from quamba_export.plugins.common.registry import get_op
from quamba_export.runtime.errors import ExitCode, QuambaError


class StateStudy(TorchBackend):
    """One token with the state of each format: batch entries (F b), fp32 states updated in place."""

    def __init__(self, model: QuantizedModel, formats: Sequence[Held], position: int) -> None:
        super().__init__(model.tensors)
        self._formats, self._position, self._layer = formats, position, 0

    def op(self, name: str, *inputs: Tensor, **attrs: float | int) -> tuple[Tensor, ...]:
        scans = {"QuantizedSSDScan": self._ssd_scan, "QuantizedSelectiveScan": self._selective_scan}
        if name not in scans:
            return super().op(name, *inputs, **attrs)
        by_name = dict(zip((tensor.name for tensor in get_op(name).spec.inputs), inputs, strict=True))
        return scans[name](by_name, attrs), by_name["state"]

    def _ssd_scan(self, i: dict[str, Tensor], a: dict[str, float | int]) -> Tensor:
        step = softplus(dequantize(i["dt"], a["dt_scale"]) + i["dt_bias"]).clamp(a["dt_min"], a["dt_max"])
        x, groups = dequantize(i["x"], i["x_scale"][i["scale_index"]]), i["B"].shape[2]
        decay = exp(step * -exp(i["A_log"]))[:, 0].unflatten(1, (groups, -1))  # (F b, G, H/G)
        y = self.advance(
            i["state"].unflatten(1, (groups, -1)),  # (F b, G, H/G, P, N)
            decay[..., None, None],
            (step[..., None] * x)[:, 0].unflatten(1, (groups, -1))[..., None],
            dequantize(i["B"], i["B_scale"][:, None])[:, 0, :, None, None],
            dequantize(i["C"], i["C_scale"][:, None])[:, 0, :, None, :, None],
        )
        return y.flatten(1, 2)[:, None] + i["D"][:, None] * x

    def _selective_scan(self, i: dict[str, Tensor], a: dict[str, float | int]) -> Tensor:
        wide = {name: dequantize(codes, a[f"{name}_scale"]) for name, codes in i.items() if name != "state"}
        step = softplus(wide["dt"] + wide["dt_bias"])
        y = self.advance(
            i["state"],  # (F b, E, N)
            exp(step[:, 0, :, None] * -exp(wide["A_log"])),
            (step * wide["x"])[:, 0, :, None],
            wide["B"],
            wide["C"][:, 0, :, None],
        )
        return (y[:, None] + wide["D"] * wide["x"]) * silu(wide["z"])

    def advance(self, state: Tensor, decay: Tensor, inputs: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """Each state behind the token as its format holds it; y (F b, ..., P or E) of the unrounded ones."""
        outputs = []
        parts = (tensor.chunk(len(self._formats)) for tensor in (state, decay, inputs, B, C))
        for held, h, kept, added, row, read in zip(self._formats, *parts, strict=True):
            h.mul_(kept).addcmul_(added, row)
            outputs.append((h @ read).squeeze(-1))
            h.copy_(held(h, self._layer, self._position))
        self._layer += 1
        return torch.cat(outputs)


@dataclass
class Score:
    """Sums over tokens."""

    nats: float = 0.0
    kl: float = 0.0  # KL(float || this)
    agreements: int = 0
    tokens: int = 0

    def add(self, found: Tensor, expected: Tensor, targets: Tensor) -> None:
        """Log-probabilities (b, V) of both models for a token, and the ids (b,) that came."""
        self.nats -= found.gather(-1, targets[:, None]).sum().item()
        self.kl += (expected.exp() * (expected - found)).sum().item()
        self.agreements += int((expected.argmax(-1) == found.argmax(-1)).sum())
        self.tokens += len(targets)


@torch.no_grad()
def state_study(
    model: QuantizedModel, float_model: FloatMamba, tokens: Tensor, formats: dict[str, Held]
) -> tuple[float, dict[str, Score]]:
    """Nats a token of the float model, and what each format scores on the windows tokens (b, L).

    model: with an fp32 state. Every window begins with a state of zeros.
    """
    expected = torch.log_softmax(float_model(tokens[:, :-1])[0], -1)  # (b, L-1, V)
    scores, held = {name: Score() for name in formats}, list(formats.values())
    states = model.zero_states(len(held) * len(tokens))
    for position in range(tokens.shape[1] - 1):
        ids = tokens[:, position].repeat(len(held))[:, None]
        net = StateStudy(model, held, position)
        logits, conv, scan = forward(net, model, ids, states.conv, states.scan_states(), torch.tensor(1))
        states = States.of_layers(conv, scan)
        found = torch.log_softmax(logits[:, 0], -1).chunk(len(held))
        for score, log_probs in zip(scores.values(), found, strict=True):
            score.add(log_probs, expected[:, position], tokens[:, position + 1])
    return -expected.gather(-1, tokens[:, 1:, None]).mean().item(), scores


def table(float_nats: float, scores: dict[str, Score], formats: dict[str, Held]) -> str:
    """Markdown."""
    lines = [f"float: {math.exp(float_nats):.4f}", "", "| state | perplexity | ratio | KL | same top token |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for name in formats:
        score = scores[name]
        nats, kl, same = (total / score.tokens for total in (score.nats, score.kl, score.agreements))
        ratio = math.exp(nats - float_nats)
        lines.append(f"| {name} | {math.exp(nats):.4f} | {ratio:.4f} | {kl:.4f} | {100 * same:.1f} % |")
    return "\n".join(lines)


def chosen(formats: dict[str, Held], names: str) -> dict[str, Held]:
    """Those named, by semicolons; all where none is. Raises QuambaError (exit 2) for a name that is none."""
    wanted = names.split(";") if names else list(formats)
    if unknown := [name for name in wanted if name not in formats]:
        found, allowed = f"--formats '{unknown[0]}'", "; ".join(formats)
        raise QuambaError("no such state format", found=found, allowed=allowed, code=ExitCode.USAGE)
    return {name: formats[name] for name in wanted}


def main(
    checkpoint: str,
    calibration: Annotated[Path, typer.Option(help="The calibration/ directory made from it.")],
    data: Annotated[str, typer.Option(help="A .txt or .jsonl file to score on.")],
    window: Annotated[int, typer.Option(help="Tokens a window.")] = 1024,
    max_tokens: Annotated[int, typer.Option(help="Cut the text to its first N tokens.")] = 1024,
    formats: Annotated[str, typer.Option(help="Names, by semicolons; all where none is given.")] = "",
) -> None:
    """Score ways of holding the scan state, each token of each window rounding it once."""
    source, scales = load_checkpoint(checkpoint), read_calibration(calibration)
    found = chosen(study_formats(quantize_model(source, scales, ssm_state_dtype="int8")), formats)
    if source.tokenizer_path is None:
        allowed = "a tokenizer.json beside the weights"
        raise QuambaError(f"checkpoint {source.path} has no tokenizer", allowed=allowed)
    stream = token_stream(data, source.tokenizer_path, source.eos_token_id, limit=max_tokens)
    tokens = torch.from_numpy(windows(stream, window))
    if not len(tokens):
        raise QuambaError(
            "the text is shorter than a window", found=f"{len(stream)} tokens", allowed=f"{window}"
        )
    model = quantize_model(source, scales, ssm_state_dtype="float32")
    print(table(*state_study(model, FloatMamba.from_checkpoint(source), tokens, found), found))


if __name__ == "__main__":
    typer.run(main)
