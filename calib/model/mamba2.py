"""The Mamba-2 block in plain PyTorch (Mamba-2, arXiv 2405.21060, section 7 and listing 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from quamba_export.calib.model.layer import Layer, rms_norm

CHUNK = 64


def mamba2_mixer(layer: Layer, norm_out: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, ...]:
    """norm_out (B, L, D), conv_state (B, C, W-1), ssm_state (B, H, P, N) -> (B, L, D), both states."""
    config = layer.config
    parts = [config.d_inner, config.n_groups * config.d_state, config.n_groups * config.d_state]
    z, conv_in, dt = torch.split(
        layer.in_proj(norm_out), [config.d_inner, config.conv_dim, config.n_heads], dim=-1
    )
    layer.observe("z", z)
    for name, part in zip("xBC", torch.split(conv_in, parts, dim=-1), strict=True):
        layer.observe(f"conv_in_{name}", part)  # (B, L, E), (B, L, GN), (B, L, GN)
    layer.observe("dt", dt)  # (B, L, H)

    conv_out, conv_state = layer.causal_conv(conv_in, conv_state)
    x, B, C = torch.split(conv_out, parts, dim=-1)
    x = torch.unflatten(x, -1, (config.n_heads, config.headdim))  # (B, L, H, P)
    B, C = (torch.unflatten(t, -1, (config.n_groups, config.d_state)) for t in (B, C))  # (B, L, G, N)
    layer.observe("x", x)
    layer.observe("B", B)
    layer.observe("C", C)

    dt = F.softplus(dt + layer.weight("mixer.dt_bias")).clamp(*config.time_step_limit)
    A = -torch.exp(layer.weight("mixer.A_log"))  # (H,)
    y, ssm_state = ssd_scan(x, dt, A, B, C, ssm_state)
    layer.observe("ssm_state", ssm_state)
    y = (y + x * layer.weight("mixer.D")[:, None]).flatten(2)  # (B, L, E)
    y = rms_norm(y * F.silu(z), layer.weight("mixer.norm.weight"), config.norm_epsilon, config.n_groups)
    return layer.out_proj(y), conv_state, ssm_state


def ssd_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T and y_t = h_t C_t, as matrix products over chunks.

    x (B, L, H, P), dt (B, L, H), A (H,), B, C (B, L, G, N), state (B, H, P, N)
    -> y (B, L, H, P), the state after the last token (B, H, P, N).

    Inside a chunk of CHUNK tokens y is a masked attention of C over B; a chunk's effect on the state, and the
    state's on the next chunk, are one product each. Decays come from fp64 sums: their differences cancel.
    """
    length, chunk = x.shape[1], min(CHUNK, x.shape[1])
    heads_per_group = x.shape[2] // B.shape[2]
    pad = -length % chunk  # padded tokens have dt = 0: they keep the state and add nothing
    x = _chunks(x * dt[..., None], pad, chunk)  # (B, H, K, T, P)
    B, C = (
        _chunks(t, pad, chunk).repeat_interleave(heads_per_group, dim=1) for t in (B, C)
    )  # (B, H, K, T, N)
    log_decay = _chunks((dt * A)[..., None], pad, chunk).squeeze(-1).double().cumsum(-1)  # (B, H, K, T)

    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    between = (log_decay[..., :, None] - log_decay[..., None, :]).to(x.dtype)  # (B, H, K, T, T): from s to t
    attention = (C @ B.mT) * torch.exp(between.masked_fill(future, -torch.inf))
    to_end = torch.exp(log_decay[..., -1:] - log_decay).to(x.dtype)  # (B, H, K, T)
    inflow = (x * to_end[..., None]).mT @ B  # (B, H, K, P, N): what a chunk adds to the state

    starts = [state.to(x.dtype)]
    chunk_decay = torch.exp(log_decay[..., -1]).to(x.dtype)  # (B, H, K)
    for added, decay in zip(inflow.unbind(2), chunk_decay.unbind(2), strict=True):
        starts.append(torch.addcmul(added, decay[..., None, None], starts[-1]))  # (B, H, P, N)
    from_start = torch.exp(log_decay).to(x.dtype)[..., None]
    y = attention @ x + (C @ torch.stack(starts[:-1], dim=2).mT) * from_start  # (B, H, K, T, P)
    return y.flatten(2, 3)[:, :, :length].transpose(1, 2), starts[-1]


def _chunks(tensor: Tensor, pad: int, chunk: int) -> Tensor:
    """(B, L, H, F) -> (B, H, K, T, F), zeros behind the last token."""
    return torch.unflatten(F.pad(tensor, (0, 0, 0, 0, 0, pad)).transpose(1, 2), 2, (-1, chunk))
