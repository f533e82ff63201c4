"""The quantized Mamba network, written once, as calls of ops on a backend.

A backend (backend.py) is an interpreter of this page: torch_backend.py runs the ops' references and gives the
quantized reference model, exporter/graph/onnx_backend.py writes one ONNX node a call and gives the exported
graph. `net.tap` names a tensor by its site (docs/architecture.md), for every layer to be compared between
interpreters. The blocks here have int8 activations; those of fp16 and fp32 are float_network.py, the two ends
tables.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quamba_export.calib.model import float_network, tables
from quamba_export.calib.model.backend import Backend, V
from quamba_export.calib.model.scan_input import scan_input_conv

if TYPE_CHECKING:
    from quamba_export.calib.model.quantized_model import QuantizedModel


def forward(
    net: Backend[V],
    model: QuantizedModel,
    input_ids: V,
    conv_states: list[V],
    ssm_states: list[tuple[V, ...]],
    num_logits: V,
) -> tuple[V, list[V], list[tuple[V, ...]]]:
    """input_ids (B, L) and the carried states -> logits (B, num_logits, V) of the last positions, next
    states. A layer's scan state is h, or of a dynamic int8 one codes and row scales.
    """
    conv_out, ssm_out = [], []
    hidden = tables.embed(net, model, input_ids)  # (B, L, D)
    for i in range(model.config.n_layer):
        mamba1, mamba2 = (mamba1_block, mamba2_block)
        if model.block(i).activation_bits != 8:
            mamba1, mamba2 = float_network.mamba1_block, float_network.mamba2_block
        block = mamba1 if model.config.kind == "mamba1" else mamba2
        hidden, conv_state, ssm_state = block(net, model, i, hidden, conv_states[i], ssm_states[i])
        conv_out.append(conv_state)
        ssm_out.append(ssm_state)
    logits = tables.head(net, model, net.last_tokens(hidden, num_logits))
    return logits, conv_out, ssm_out


def mamba1_block(
    net: Backend[V], model: QuantizedModel, i: int, hidden: V, conv_state: V, ssm_state: tuple[V, ...]
) -> tuple[V, V, tuple[V, ...]]:
    """hidden (B, L, D) -> hidden + mixer(norm(hidden)), next conv and ssm state."""
    config, site = model.config, f"layers.{i}"
    u = _norm(net, model, site, hidden)
    x, z = net.split(_project(net, model, f"{site}.in_proj", u, f"{site}.norm_out"), [config.d_inner] * 2)
    net.tap(f"{site}.z", z)
    codes, x, conv_state = _conv(net, model, site, net.tap(f"{site}.conv_in", x), conv_state)
    net.tap(f"{site}.x", x)
    dt_low, B, C = net.split(
        _project(net, model, f"{site}.x_proj", codes, f"{site}.x"),
        [config.dt_rank, config.d_state, config.d_state],
    )
    net.tap(f"{site}.B", B)
    net.tap(f"{site}.C", C)
    dt = _project(net, model, f"{site}.dt_proj", net.tap(f"{site}.dt_low", dt_low), f"{site}.dt_low")
    net.tap(f"{site}.dt", dt)
    constants = {name: net.weight(f"{site}.{name}") for name in ("A_log", "D", "dt_bias")}
    float_x = model.ssm_input.is_float
    y, *held = net.op(
        f"{_scan_kind(model)}SelectiveScan",
        x,
        dt,
        constants["A_log"],
        B,
        C,
        constants["D"],
        z,
        constants["dt_bias"],
        *ssm_state,
        **({} if float_x else {"x_scale": model.scan_x_scale(site)}),
        dt_scale=model.scale(f"{site}.dt"),
        A_log_scale=model.scale(f"{site}.A_log"),
        B_scale=model.scale(f"{site}.B"),
        C_scale=model.scale(f"{site}.C"),
        D_scale=model.scale(f"{site}.D"),
        z_scale=model.scale(f"{site}.z"),
        dt_bias_scale=model.scale(f"{site}.dt_bias"),
        **(model.row_rounding if model.dynamic_state else {"state_scale": model.state_scale(site)}),
    )
    net.tap(f"{site}.ssm_state", held[0])
    (rotated,) = net.op(
        "HadamardQuantize",
        net.tap(f"{site}.y", y),
        hadamard=int(model.out_hadamard),
        out_scale=model.scale(f"{site}.out_proj_in"),
    )
    return _project_out(net, model, site, hidden, rotated), conv_state, tuple(held)


def mamba2_block(
    net: Backend[V], model: QuantizedModel, i: int, hidden: V, conv_state: V, ssm_state: tuple[V, ...]
) -> tuple[V, V, tuple[V, ...]]:
    """hidden (B, L, D) -> hidden + mixer(norm(hidden)), next conv and ssm state."""
    config, site = model.config, f"layers.{i}"
    u = _norm(net, model, site, hidden)
    z, conv_in, dt = net.split(
        _project(net, model, f"{site}.in_proj", u, f"{site}.norm_out"),
        [config.d_inner, config.conv_dim, config.n_heads],
    )
    net.tap(f"{site}.z", z)
    net.tap(f"{site}.dt", dt)
    codes, values, conv_state = _conv(net, model, site, net.tap(f"{site}.conv_in", conv_in), conv_state)
    shared = config.n_groups * config.d_state
    x, B, C = net.split(codes, parts := [config.d_inner, shared, shared])
    constants = ["D", "dt_bias", "x_scale", "B_scale", "C_scale", "state_scale", "scale_index"]
    if model.dynamic_state:
        constants.remove("state_scale")
    if model.ssm_input.is_float:
        x, *_ = net.split(values, parts)
    y, *held = net.op(
        f"{_scan_kind(model)}SSDScan",
        net.tap(f"{site}.x", net.reshape_last(x, [config.n_heads, config.headdim])),
        dt,
        net.weight(f"{site}.A_log"),
        net.tap(f"{site}.B", net.reshape_last(B, [config.n_groups, config.d_state])),
        net.tap(f"{site}.C", net.reshape_last(C, [config.n_groups, config.d_state])),
        *(net.weight(f"{site}.{name}") for name in constants),
        *ssm_state,
        dt_scale=model.scale(f"{site}.dt"),
        dt_min=config.time_step_limit[0],
        dt_max=min(config.time_step_limit[1], model.FLOAT_MAX),
        **(model.row_rounding if model.dynamic_state else {}),
    )
    net.tap(f"{site}.ssm_state", held[0])
    (rotated,) = net.op(
        "GatedRMSNormHadamardQuantize",
        net.tap(f"{site}.y", net.reshape_last(y, [config.d_inner])),
        z,
        net.weight(f"{site}.norm.weight"),
        z_scale=model.scale(f"{site}.z"),
        n_groups=config.n_groups,
        hadamard=int(model.out_hadamard),
        epsilon=config.norm_epsilon,
        out_scale=model.scale(f"{site}.out_proj_in"),
    )
    return _project_out(net, model, site, hidden, rotated), conv_state, tuple(held)


def _scan_kind(model: QuantizedModel) -> str:
    """Which of the scan ops, by what it takes x and the state as."""
    if model.ssm_input.is_float:
        return "FloatInput"
    return "DynamicState" if model.dynamic_state else "Quantized"


def _norm(net: Backend[V], model: QuantizedModel, site: str, hidden: V) -> V:
    attrs = {"epsilon": model.config.norm_epsilon, "out_scale": model.scale(f"{site}.norm_out")}
    if model.smoothed:
        (u,) = net.op("WeightedRMSNormQuantize", hidden, net.weight(f"{site}.norm_weight"), **attrs)
    else:
        (u,) = net.op("RMSNormQuantize", hidden, **attrs)
    return net.tap(f"{site}.norm_out", u)


def _project(net: Backend[V], model: QuantizedModel, name: str, x: V, x_site: str) -> V:
    """Projection to int8 whose rows carry the scales of the sites they feed."""
    constants = (net.weight(f"{name}.{part}") for part in ("weight", "weight_scale", "bias", "out_scale"))
    op = "Int4RequantizedLinear" if model.bits(name) == 4 else "RequantizedLinear"
    (y,) = net.op(op, x, *constants, x_scale=model.scale(x_site))
    return y


def _conv(net: Backend[V], model: QuantizedModel, site: str, x: V, state: V) -> tuple[V, V, V]:
    """Codes, what a scan gets for them (the codes again but in studies), next state."""
    if model.ssm_input.is_float:
        return scan_input_conv(net, site, model.ssm_input, x, state)
    parts = ("weight", "x_scale", "weight_scale", "bias", "out_scale")
    y, state = net.op(
        "QuantizedCausalConv1d", x, state, *(net.weight(f"{site}.conv1d.{part}") for part in parts)
    )
    return y, y, state


def _project_out(net: Backend[V], model: QuantizedModel, site: str, hidden: V, x: V) -> V:
    """Residual stream after the block."""
    net.tap(f"{site}.out_proj_in", x)
    constants = (net.weight(f"{site}.out_proj.{part}") for part in ("weight", "weight_scale", "bias"))
    op = "Int4Linear" if model.bits(f"{site}.out_proj") == 4 else "QuantizedLinear"
    (hidden,) = net.op(op, x, *constants, hidden, x_scale=model.scale(f"{site}.out_proj_in"))
    return net.tap(f"{site}.hidden", hidden)
