"""The Mamba-1 block in plain PyTorch (Mamba, arXiv 2312.00752, algorithm 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quamba_export.calib.layer import Layer

CHUNK = 16


def mamba1_mixer(layer: Layer, norm_out: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, ...]:
    """norm_out (B, L, D), conv_state (B, E, W-1), ssm_state (B, E, N) -> output (B, L, D) and both new states."""
    config = layer.config
    conv_in, z = layer.in_proj(norm_out).chunk(2, dim=-1)  # (B, L, E) each
    layer.observe("z", z)
    layer.observe("conv_in", conv_in)
    x, conv_state = layer.causal_conv(conv_in, conv_state)  # (B, L, E)
    layer.observe("x", x)

    dt_low, B, C = F.linear(x, layer.weight("mixer.x_proj.weight")).split(
        [config.dt_rank, config.d_state, config.d_state], dim=-1
    )  # (B, L, R), (B, L, N), (B, L, N)
    layer.observe("dt_low", dt_low)
    layer.observe("B", B)
    layer.observe("C", C)
    dt = F.linear(dt_low, layer.weight("mixer.dt_proj.weight"))  # (B, L, E)
    layer.observe("dt", dt)
    dt = F.softplus(dt + layer.weight("mixer.dt_proj.bias"))

    A = -torch.exp(layer.weight("mixer.A_log"))  # (E, N)
    y, ssm_state = selective_scan(x, dt, A, B, C, ssm_state)
    layer.observe("ssm_state", ssm_state)
    y = (y + x * layer.weight("mixer.D")) * F.silu(z)
    return layer.out_proj(y), conv_state, ssm_state


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t and y_t = C_t h_t, in chunks of CHUNK tokens.

    x, dt (B, L, E), A (E, N), B, C (B, L, N), state (B, E, N) -> y (B, L, E), the state after the last token.

    All chunks run side by side from a zero state, one token at a time; then the true state walks from chunk to
    chunk. That is CHUNK + L / CHUNK steps instead of L, with no division by a decay that may underflow.
    """
    batch, length, _ = x.shape
    chunk = min(CHUNK, length)
    pad = -length % chunk  # padded tokens have dt = 0: they keep the state and add nothing
    x, dt, B, C = (F.pad(t, (0, 0, 0, pad)).unflatten(1, (-1, chunk)) for t in (x, dt, B, C))  # (B, K, T, .)

    log_decay = dt[..., None] * A  # (B, K, T, E, N)
    decay = torch.exp(log_decay).unbind(2)
    inflow = ((dt * x)[..., None] * B[..., None, :]).unbind(2)
    local = [inflow[0]]
    for t in range(1, chunk):
        local.append(torch.addcmul(inflow[t], decay[t], local[-1]))  # (B, K, E, N)
    h_local = torch.stack(local, dim=2)  # (B, K, T, E, N)

    decay_from_start = torch.exp(log_decay.cumsum(2))  # (B, K, T, E, N)
    ends, end_decays = h_local[:, :, -1].unbind(1), decay_from_start[:, :, -1].unbind(1)
    starts = [state.to(x.dtype)]
    for end, end_decay in zip(ends, end_decays, strict=True):
        starts.append(torch.addcmul(end, end_decay, starts[-1]))  # (B, E, N)
    h = torch.addcmul(h_local, decay_from_start, torch.stack(starts[:-1], dim=1)[:, :, None])
    y = (h @ C[..., None]).squeeze(-1)  # (B, K, T, E)
    return y.flatten(1, 2)[:, :length], starts[-1]
