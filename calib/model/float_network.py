"""The blocks of calib/model/network.py with float activations: no scale but those of weights that are codes.

fp16 (Half...) or fp32 (Float...) is what flows between ops, the convolution's state included; the residual
stream and a scan's result are fp32, as in the int8 blocks, and the sites have the same names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quamba_export.calib.model.backend import Backend, V

if TYPE_CHECKING:
    from quamba_export.calib.model.quantized_model import QuantizedModel

PREFIXES = {16: "Half", 32: "Float"}  # of an op's name, by the bits of activations
WEIGHTS = {
    4: "Int4",
    8: "Int8",
    16: "",
    32: "",
}  # what stands behind it, by the bits of a projection's weight


def mamba1_block(
    net: Backend[V], model: QuantizedModel, i: int, hidden: V, conv_state: V, ssm_state: tuple[V, ...]
) -> tuple[V, V, tuple[V, ...]]:
    """hidden (B, L, D) -> hidden + mixer(norm(hidden)), next conv and ssm state."""
    config, site, prefix = model.config, f"layers.{i}", PREFIXES[model.block(i).activation_bits]
    u = _norm(net, model, prefix, site, hidden)
    x, z = net.split(_project(net, model, prefix, f"{site}.in_proj", u), [config.d_inner] * 2)
    net.tap(f"{site}.z", z)
    x, conv_state = _conv(net, prefix, site, net.tap(f"{site}.conv_in", x), conv_state)
    net.tap(f"{site}.x", x)
    dt_low, B, C = net.split(
        _project(net, model, prefix, f"{site}.x_proj", x), [config.dt_rank, config.d_state, config.d_state]
    )
    net.tap(f"{site}.B", B)
    net.tap(f"{site}.C", C)
    dt = net.tap(
        f"{site}.dt", _project(net, model, prefix, f"{site}.dt_proj", net.tap(f"{site}.dt_low", dt_low))
    )
    A_log, D, dt_bias = (net.weight(f"{site}.{name}") for name in ("A_log", "D", "dt_bias"))
    y, h = net.op(f"{prefix}SelectiveScan", x, dt, A_log, B, C, D, z, dt_bias, *ssm_state)
    net.tap(f"{site}.ssm_state", h)
    (rotated,) = net.op(f"{prefix}Hadamard", net.tap(f"{site}.y", y), hadamard=int(model.out_hadamard))
    return _project_out(net, model, prefix, site, hidden, rotated), conv_state, (h,)


def mamba2_block(
    net: Backend[V], model: QuantizedModel, i: int, hidden: V, conv_state: V, ssm_state: tuple[V, ...]
) -> tuple[V, V, tuple[V, ...]]:
    """hidden (B, L, D) -> hidden + mixer(norm(hidden)), next conv and ssm state."""
    config, site, prefix = model.config, f"layers.{i}", PREFIXES[model.block(i).activation_bits]
    u = _norm(net, model, prefix, site, hidden)
    z, conv_in, dt = net.split(
        _project(net, model, prefix, f"{site}.in_proj", u), [config.d_inner, config.conv_dim, config.n_heads]
    )
    net.tap(f"{site}.z", z)
    net.tap(f"{site}.dt", dt)
    conv_out, conv_state = _conv(net, prefix, site, net.tap(f"{site}.conv_in", conv_in), conv_state)
    shared = config.n_groups * config.d_state
    x, B, C = net.split(conv_out, [config.d_inner, shared, shared])
    y, h = net.op(
        f"{prefix}SSDScan",
        net.tap(f"{site}.x", net.reshape_last(x, [config.n_heads, config.headdim])),
        dt,
        net.weight(f"{site}.A_log"),
        net.tap(f"{site}.B", net.reshape_last(B, [config.n_groups, config.d_state])),
        net.tap(f"{site}.C", net.reshape_last(C, [config.n_groups, config.d_state])),
        net.weight(f"{site}.D"),
        net.weight(f"{site}.dt_bias"),
        *ssm_state,
        dt_min=config.time_step_limit[0],
        dt_max=min(config.time_step_limit[1], model.FLOAT_MAX),
    )
    net.tap(f"{site}.ssm_state", h)
    (rotated,) = net.op(
        f"{prefix}GatedRMSNormHadamard",
        net.tap(f"{site}.y", net.reshape_last(y, [config.d_inner])),
        z,
        net.weight(f"{site}.norm.weight"),
        n_groups=config.n_groups,
        hadamard=int(model.out_hadamard),
        epsilon=config.norm_epsilon,
    )
    return _project_out(net, model, prefix, site, hidden, rotated), conv_state, (h,)


def _norm(net: Backend[V], model: QuantizedModel, prefix: str, site: str, hidden: V) -> V:
    (u,) = net.op(f"{prefix}RMSNorm", hidden, epsilon=model.config.norm_epsilon)
    return net.tap(f"{site}.norm_out", u)


def _conv(net: Backend[V], prefix: str, site: str, x: V, state: V) -> tuple[V, V]:
    constants = (net.weight(f"{site}.conv1d.{part}") for part in ("weight", "bias"))
    y, state = net.op(f"{prefix}CausalConv1d", x, state, *constants)
    return y, state


def _project(net: Backend[V], model: QuantizedModel, prefix: str, name: str, x: V) -> V:
    """fp16 -> fp16, or fp32 -> fp32."""
    (y,) = net.op(f"{prefix}{WEIGHTS[model.bits(name)]}Projection", x, *_constants(net, model, name))
    return y


def _project_out(net: Backend[V], model: QuantizedModel, prefix: str, site: str, hidden: V, x: V) -> V:
    """Residual stream after the block."""
    name, x = f"{site}.out_proj", net.tap(f"{site}.out_proj_in", x)
    op = f"{prefix}{WEIGHTS[model.bits(name)]}Linear"
    (hidden,) = net.op(op, x, *_constants(net, model, name), hidden)
    return net.tap(f"{site}.hidden", hidden)


def _constants(net: Backend[V], model: QuantizedModel, name: str) -> list[V]:
    """Weight, its scales where it is codes, bias."""
    parts = ("weight", "weight_scale", "bias") if WEIGHTS[model.bits(name)] else ("weight", "bias")
    return [net.weight(f"{name}.{part}") for part in parts]
