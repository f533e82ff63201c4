"""config.json of a checkpoint, mamba-ssm's or Hugging Face's -> MambaConfig.

Sizes that a format always writes are required. Absent switches take the default of the program that wrote the
file (mamba-ssm's Mamba and Mamba2 modules, transformers' MambaConfig and Mamba2Config). What this project's
models cannot compute is refused, never ignored.
"""

from __future__ import annotations

import math
from pathlib import Path

from quamba_export.calib.config import Kind, MambaConfig
from quamba_export.calib.json_fields import JsonFields
from quamba_export.runtime.errors import QuambaError

HUGGING_FACE_KINDS: dict[str, Kind] = {"mamba": "mamba1", "mamba2": "mamba2"}
MAMBA_SSM_KINDS: dict[str, Kind] = {"Mamba1": "mamba1", "Mamba2": "mamba2"}

# ssm_cfg keys that do not change what the model computes
INITIALIZATION_KEYS = {
    "dt_min",
    "dt_max",
    "dt_init",
    "dt_scale",
    "dt_init_floor",
    "A_init_range",
    "conv_init",
}
SPEED_KEYS = {"chunk_size", "use_fast_path", "use_mem_eff_path", "sequence_parallel"}
SHARED_KEYS = {"layer", "d_state", "d_conv", "expand", "conv_bias", "bias"} | INITIALIZATION_KEYS | SPEED_KEYS
SSM_KEYS = {
    "mamba1": SHARED_KEYS | {"dt_rank"},
    "mamba2": SHARED_KEYS
    | {"headdim", "ngroups", "d_ssm", "rmsnorm", "norm_before_gate", "D_has_hdim", "dt_limit", "activation"},
}

MAX_D_MODEL, MAX_LAYERS, MAX_VOCAB, MAX_STATE, MAX_CONV = 65536, 1024, 2**24, 4096, 64
INFINITE = (0.0, math.inf)


def read_config(file: Path) -> MambaConfig:
    """Raises QuambaError for a missing key, a value out of range, or a model that is no plain Mamba."""
    fields = JsonFields.from_file(file)
    if "model_type" in fields.values:
        return _hugging_face(fields)
    if "d_model" in fields.values or "ssm_cfg" in fields.values:
        return _mamba_ssm(fields)
    raise QuambaError(
        f"{file} describes no Mamba model",
        found=fields.keys,
        allowed="mamba-ssm's keys (d_model, n_layer, ssm_cfg) or Hugging Face's (model_type mamba or mamba2)",
    )


def _mamba_ssm(fields: JsonFields) -> MambaConfig:
    ssm = fields.section("ssm_cfg")
    kind = MAMBA_SSM_KINDS[ssm.choice("layer", MAMBA_SSM_KINDS, default="Mamba1")]
    _refuse_hybrids(fields)
    _refuse_ssm_variants(ssm, kind)
    d_model = fields.integer("d_model", 1, MAX_D_MODEL)
    multiple = fields.integer("pad_vocab_size_multiple", 1, 65536, default=8)
    config = MambaConfig(
        kind=kind,
        d_model=d_model,
        n_layer=fields.integer("n_layer", 1, MAX_LAYERS),
        vocab_size=math.ceil(fields.integer("vocab_size", 1, MAX_VOCAB) / multiple) * multiple,
        d_inner=_d_inner(ssm, d_model),
        d_state=ssm.integer("d_state", 1, MAX_STATE, default=16 if kind == "mamba1" else 128),
        d_conv=ssm.integer("d_conv", 2, MAX_CONV, default=4),
        dt_rank=_dt_rank(ssm, "dt_rank", d_model) if kind == "mamba1" else 0,
        headdim=ssm.integer("headdim", 1, MAX_D_MODEL, default=64) if kind == "mamba2" else 0,
        n_groups=ssm.integer("ngroups", 1, MAX_STATE, default=1) if kind == "mamba2" else 0,
        tie_embeddings=fields.boolean("tie_embeddings", default=True),
        conv_bias=ssm.boolean("conv_bias", default=True),
        proj_bias=ssm.boolean("bias", default=False),
        norm_epsilon=1e-5,
        time_step_limit=ssm.interval("dt_limit", INFINITE) if kind == "mamba2" else INFINITE,
    )
    if kind == "mamba2":
        _check_heads(config, ssm, "headdim", "ngroups")
        if ssm.values.get("d_ssm") not in (None, config.d_inner):
            raise ssm.refusal(
                "d_ssm", f"{config.d_inner} = expand * d_model, or absent: no MLP beside the scan"
            )
    return config


def _hugging_face(fields: JsonFields) -> MambaConfig:
    kind = HUGGING_FACE_KINDS[fields.choice("model_type", HUGGING_FACE_KINDS)]
    fields.choice("hidden_act", ("silu", "swish"), default="silu")
    d_model = fields.integer("hidden_size", 1, MAX_D_MODEL)
    config = MambaConfig(
        kind=kind,
        d_model=d_model,
        n_layer=fields.integer("num_hidden_layers", 1, MAX_LAYERS),
        vocab_size=fields.integer("vocab_size", 1, MAX_VOCAB),
        d_inner=_d_inner(fields, d_model),
        d_state=fields.integer("state_size", 1, MAX_STATE),
        d_conv=fields.integer("conv_kernel", 2, MAX_CONV, default=4),
        dt_rank=_dt_rank(fields, "time_step_rank", d_model) if kind == "mamba1" else 0,
        headdim=fields.integer("head_dim", 1, MAX_D_MODEL) if kind == "mamba2" else 0,
        n_groups=fields.integer("n_groups", 1, MAX_STATE) if kind == "mamba2" else 0,
        tie_embeddings=fields.boolean("tie_word_embeddings", default=kind == "mamba1"),
        conv_bias=fields.boolean("use_conv_bias", default=True),
        proj_bias=fields.boolean("use_bias", default=False),
        norm_epsilon=fields.number("layer_norm_epsilon", 1e-12, 0.1, default=1e-5),
        time_step_limit=fields.interval("time_step_limit", INFINITE) if kind == "mamba2" else INFINITE,
    )
    if fields.values.get("intermediate_size") not in (None, config.d_inner):
        raise fields.refusal("intermediate_size", f"{config.d_inner} (expand * hidden_size)")
    if kind == "mamba2":
        _check_heads(config, fields, "head_dim", "n_groups")
        if fields.integer("num_heads", 1, MAX_D_MODEL) != config.n_heads:
            raise fields.refusal("num_heads", f"{config.n_heads} (expand * hidden_size / head_dim)")
    return config


def _refuse_hybrids(fields: JsonFields) -> None:
    if fields.values.get("attn_layer_idx"):
        raise fields.refusal("attn_layer_idx", "[]: hybrids with attention layers are not supported")
    if fields.values.get("d_intermediate"):
        raise fields.refusal("d_intermediate", "0: hybrids with MLP layers are not supported")
    if not fields.boolean("rms_norm", default=True):
        raise fields.refusal("rms_norm", "true: LayerNorm models are not supported")


def _refuse_ssm_variants(ssm: JsonFields, kind: Kind) -> None:
    for key in sorted(ssm.values.keys() - SSM_KEYS[kind]):
        raise ssm.refusal(key, f"for {kind}: " + ", ".join(sorted(SSM_KEYS[kind])))
    if not ssm.boolean("rmsnorm", default=True):
        raise ssm.refusal("rmsnorm", "true: Mamba-2 without the gated norm is not supported")
    if ssm.boolean("norm_before_gate", default=False):
        raise ssm.refusal("norm_before_gate", "false: the norm comes after the gate")
    if ssm.boolean("D_has_hdim", default=False):
        raise ssm.refusal("D_has_hdim", "false: one D a head")
    ssm.choice("activation", ("silu", "swish"), default="silu")


def _d_inner(fields: JsonFields, d_model: int) -> int:
    return int(fields.number("expand", 1 / d_model, 64, default=2.0) * d_model)


def _dt_rank(fields: JsonFields, key: str, d_model: int) -> int:
    if fields.values.get(key, "auto") == "auto":
        return math.ceil(d_model / 16)
    return fields.integer(key, 1, MAX_D_MODEL)


def _check_heads(config: MambaConfig, fields: JsonFields, headdim_key: str, groups_key: str) -> None:
    if config.d_inner % config.headdim:
        raise fields.refusal(
            headdim_key, f"a divisor of {config.d_inner} (expand * d_model); 64 where absent"
        )
    if config.n_heads % config.n_groups:
        raise fields.refusal(groups_key, f"a divisor of the {config.n_heads} heads")
