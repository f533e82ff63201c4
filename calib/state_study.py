"""What each way of holding the scan state costs in decode: perplexity and KL, one line a format.

python -m quamba_export.calib.state_study CHECKPOINT --calibration calibration --data validation.txt

All formats go through the text token by token, side by side in one batch: projections, convolution and codes are
those of the quantized reference, the scan is its recurrence in fp32 with sums in torch's order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from quamba_export.calib.calibration import read_calibration
from quamba_export.calib.checkpoint import load_checkpoint
from quamba_export.calib.data import token_stream, windows
from quamba_export.calib.float_model import FloatMamba
from quamba_export.calib.network import forward
from quamba_export.calib.quantize_model import quantize_model
from quamba_export.calib.quantized_model import QuantizedModel
from quamba_export.calib.state_formats import Held, formats_of
from quamba_export.calib.states import States
from quamba_export.calib.torch_backend import TorchBackend
from quamba_export.plugins.common.precise import exp, silu, softplus
from quamba_export.plugins.common.quantization import dequantize


class StudyBackend(TorchBackend):
    """One token of `formats` side by side: batch entries (F b), the scans' state fp32 and updated in place."""

    def __init__(self, model: QuantizedModel, formats: list[Held], position: int) -> None:
        super().__init__(model.tensors)
        self._formats, self._position, self._layer = formats, position, 0

    def op(self, name: str, *inputs: Tensor, **attrs: float | int) -> tuple[Tensor, ...]:
        scans = {"QuantizedSSDScan": self._ssd_scan, "QuantizedSelectiveScan": self._selective_scan}
        return scans[name](*inputs, **attrs) if name in scans else super().op(name, *inputs, **attrs)

    def _ssd_scan(self, x, dt, A_log, B, C, D, dt_bias, x_scale, B_scale, C_scale, _, index, state, **attrs):  # type: ignore
        step = softplus(dequantize(dt, attrs["dt_scale"]) + dt_bias).clamp(attrs["dt_min"], attrs["dt_max"])
        x = dequantize(x, x_scale[index])
        groups = B.shape[2]
        y = self._advance(
            state.unflatten(1, (groups, -1)),  # (B, G, H/G, P, N)
            exp(step * -exp(A_log))[:, 0].unflatten(1, (groups, -1))[..., None, None],
            (step[..., None] * x)[:, 0].unflatten(1, (groups, -1))[..., None],
            dequantize(B, B_scale[:, None])[:, 0, :, None, None],
            dequantize(C, C_scale[:, None])[:, 0, :, None, :, None],
        )
        return y.flatten(1, 2)[:, None] + D[:, None] * x, state

    def _selective_scan(self, x, dt, A_log, B, C, D, z, dt_bias, state, **attrs):  # type: ignore
        wide = {n: dequantize(v, attrs[f"{n}_scale"]) for n, v in dict(x=x, dt=dt, A_log=A_log, B=B, C=C, D=D, z=z, dt_bias=dt_bias).items()}
        step = softplus(wide["dt"] + wide["dt_bias"])
        decay = exp(step[:, 0, :, None] * -exp(wide["A_log"]))
        y = self._advance(state, decay, (step * wide["x"])[:, 0, :, None], wide["B"], wide["C"][:, 0, :, None])
        return (y[:, None] + wide["D"] * wide["x"]) * silu(wide["z"]), state

    def _advance(self, state: Tensor, decay: Tensor, inputs: Tensor, B: Tensor, C: Tensor) -> Tensor:
        outputs = []
        parts = (t.chunk(len(self._formats)) for t in (state, decay, inputs, B, C))
        for held, h, keep, add, b, c in zip(self._formats, *parts):
            h.mul_(keep).addcmul_(add, b)
            outputs.append((h @ c).squeeze(-1))
            h.copy_(held(h, self._layer, self._position))
        self._layer += 1
        return torch.cat(outputs)


@dataclass
class Score:
    """Sums over tokens."""

    nats: float = 0.0
    kl: float = 0.0  # against the float checkpoint
    own_kl: float = 0.0  # against the same codes with an fp32 state
    agreements: int = 0
    tokens: int = 0

    def add(self, got: Tensor, reference: Tensor, own: Tensor, targets: Tensor) -> None:
        """Log-probabilities (b, V) of a token and the ids (b,) that came."""
        self.nats -= got.gather(-1, targets[:, None]).sum().item()
        self.kl += (reference.exp() * (reference - got)).sum().item()
        self.own_kl += (own.exp() * (own - got)).sum().item()
        self.agreements += int((reference.argmax(-1) == got.argmax(-1)).sum())
        self.tokens += len(targets)


def main(checkpoint: str, calibration: Path, data: str, window: int = 1024, max_tokens: int = 4096, only: str = "") -> None:
    source = load_checkpoint(checkpoint)
    scales = read_calibration(calibration)
    formats = formats_of(quantize_model(source, scales, ssm_state_dtype="int8"))
    if only:
        formats = {"fp32": formats["fp32"], **{n: formats[n] for n in only.split(",")}}
    model = quantize_model(source, scales, ssm_state_dtype="float32")
    stream = token_stream(data, source.tokenizer_path, source.eos_token_id, limit=max_tokens)
    tokens = torch.from_numpy(windows(stream, window))
    scores, float_nats = study(model, FloatMamba.from_checkpoint(source), tokens, formats)
    print(f"float {math.exp(float_nats)}")
    for name, s in scores.items():
        nats = s.nats / s.tokens
        print(f"{name:20} {math.exp(nats):8.4f} {math.exp(nats - float_nats):7.4f} KL {s.kl/s.tokens:.5f} state alone {s.own_kl/s.tokens:.5f} top {s.agreements/s.tokens:.4f}")


@torch.no_grad()
def study(model, reference, tokens, formats):  # type: ignore
    expected = torch.log_softmax(reference(tokens[:, :-1])[0], -1)  # (b, L-1, V)
    float_nats = -expected.gather(-1, tokens[:, 1:, None]).mean().item()
    scores = {name: Score() for name in formats}
    held = list(formats.values())
    states = model.zero_states(len(held) * len(tokens))
    for position in range(tokens.shape[1] - 1):
        ids = tokens[:, position].repeat(len(held))[:, None]
        backend = StudyBackend(model, held, position)
        logits, conv, scan = forward(backend, model, ids, states.conv, states.scan_states(), torch.tensor(1))
        states = States.of_layers(conv, scan)
        found = torch.log_softmax(logits[:, 0], -1).chunk(len(held))
        for score, got in zip(scores.values(), found, strict=True):
            score.add(got, expected[:, position], found[0], tokens[:, position + 1])
        if position % 64 == 63:
            print(position + 1, flush=True)
            for n, s in scores.items():
                print(f"  {n:16} ppl {math.exp(s.nats/s.tokens):8.4f} kl {s.kl/s.tokens:.5f} own {s.own_kl/s.tokens:.5f}", flush=True)
    return scores, float_nats


if __name__ == "__main__":
    typer.run(main)
