"""config.json in both formats: defaults, sizes, and one refusal for every rule."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, hugging_face_config, mamba_ssm_config
from refusals import refused

from quamba_export.calib.checkpoints.config_json import read_config
from quamba_export.calib.config import MambaConfig


def write(directory: Path, raw: object) -> Path:
    file = directory / "config.json"
    file.write_text(raw if isinstance(raw, str) else json.dumps(raw))
    return file


def mamba_ssm(config: MambaConfig = MAMBA2, **ssm: object) -> dict[str, Any]:
    """A mamba-ssm config with changes to ssm_cfg."""
    raw = mamba_ssm_config(config)
    return raw | {"ssm_cfg": {**raw["ssm_cfg"], **ssm}}  # type: ignore[dict-item]


def test_mamba_ssm_defaults(tmp_path: Path) -> None:
    """The published configs name three sizes; mamba-ssm's constructors know the rest."""
    sizes = {"d_model": 768, "n_layer": 24, "vocab_size": 50277}
    common = {"d_model": 768, "n_layer": 24, "vocab_size": 50280, "d_inner": 1536, "d_conv": 4}
    switches = {"tie_embeddings": True, "conv_bias": True, "proj_bias": False, "norm_epsilon": 1e-5}
    mamba1 = MambaConfig("mamba1", d_state=16, dt_rank=48, headdim=0, n_groups=0, **common, **switches)
    mamba2 = MambaConfig("mamba2", d_state=128, dt_rank=0, headdim=64, n_groups=1, **common, **switches)
    assert read_config(write(tmp_path, sizes | {"ssm_cfg": {}})) == mamba1
    assert read_config(write(tmp_path, sizes)) == mamba1
    assert read_config(write(tmp_path, sizes | {"ssm_cfg": {"layer": "Mamba2"}})) == mamba2


def test_hugging_face_defaults(tmp_path: Path) -> None:
    sizes = {"hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280, "state_size": 16}
    found = read_config(write(tmp_path, sizes | {"model_type": "mamba"}))
    assert (found.d_inner, found.d_conv, found.dt_rank, found.tie_embeddings) == (1536, 4, 48, True)
    heads = {"num_heads": 24, "head_dim": 64, "n_groups": 8}
    found = read_config(write(tmp_path, sizes | heads | {"model_type": "mamba2"}))
    assert (found.headdim, found.n_groups, found.dt_rank, found.tie_embeddings) == (64, 8, 0, False)
    assert found.time_step_limit == (0.0, math.inf)


VARIANTS = [
    replace(MAMBA1, dt_rank=7, d_conv=3, d_state=5, tie_embeddings=False, conv_bias=False, proj_bias=True),
    replace(MAMBA1, d_inner=48),
    replace(MAMBA2_GROUPS, n_groups=8, d_conv=2, tie_embeddings=False, proj_bias=True),
    replace(MAMBA2, headdim=64, time_step_limit=(0.01, 0.5)),
]


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("raw_config", [mamba_ssm_config, hugging_face_config])
def test_any_combination_of_sizes_is_read(raw_config, config: MambaConfig, tmp_path: Path) -> None:
    assert read_config(write(tmp_path, raw_config(config))) == config


def test_transformers_spelling_of_infinity(tmp_path: Path) -> None:
    raw = hugging_face_config(MAMBA2) | {"time_step_limit": [0.0, {"__float__": "Infinity"}]}
    assert read_config(write(tmp_path, raw)).time_step_limit == (0.0, math.inf)


@pytest.mark.parametrize("limit", [[0, 10**400], [-(10**400), 1], [0, "inf"], [0.1, True], [0.2, 0.1], 1])
def test_a_step_limit_that_is_no_interval(limit: object, tmp_path: Path) -> None:
    with refused("key 'time_step_limit' is not usable", "[low, high] with 0 <= low < high"):
        read_config(write(tmp_path, hugging_face_config(MAMBA2) | {"time_step_limit": limit}))


def test_auto_dt_rank(tmp_path: Path) -> None:
    raw = hugging_face_config(replace(MAMBA1, d_model=40, d_inner=80)) | {"time_step_rank": "auto"}
    assert read_config(write(tmp_path, raw)).dt_rank == 3
    assert read_config(write(tmp_path, mamba_ssm(MAMBA1, dt_rank="auto"))).dt_rank == 2


def test_a_missing_or_broken_file(tmp_path: Path) -> None:
    with refused("config.json is missing"):
        read_config(tmp_path / "config.json")
    text = json.dumps(mamba_ssm())
    with refused("config.json is not readable as JSON", "fix: fetch the file again"):
        read_config(write(tmp_path, text[: len(text) // 2]))
    with refused("config.json holds no JSON object", "found: [1, 2]"):
        read_config(write(tmp_path, [1, 2]))
    (tmp_path / "config.json").write_text('{"d_model":' * 100_000)
    with refused("config.json is not readable as JSON", "recursion"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with refused("config.json is not readable as JSON"):
        read_config(tmp_path / "config.json")


@pytest.mark.parametrize("model_type", ["llama", "falcon_mamba", "jamba", None, ["mamba"], {"mamba": 1}])
def test_not_a_mamba(model_type: object, tmp_path: Path) -> None:
    with refused(
        "config.json: key 'model_type' is not usable", json.dumps(model_type), "'mamba' or 'mamba2'"
    ):
        read_config(write(tmp_path, {"model_type": model_type, "hidden_size": 64}))


def test_neither_format(tmp_path: Path) -> None:
    with refused("config.json describes no Mamba model", "found: keys dim, n_heads", "mamba-ssm's keys"):
        read_config(write(tmp_path, {"dim": 4096, "n_heads": 32}))


@pytest.mark.parametrize("key", ["d_model", "n_layer", "vocab_size"])
def test_mamba_ssm_without_a_size(key: str, tmp_path: Path) -> None:
    raw = mamba_ssm()
    del raw[key]
    with refused(f"config.json: key '{key}' is missing", "found: keys ", "allowed: an integer from 1 to"):
        read_config(write(tmp_path, raw))


HUGGING_FACE_SIZES = ["hidden_size", "num_hidden_layers", "vocab_size", "state_size"]
MAMBA2_SIZES = ["head_dim", "num_heads", "n_groups"]


@pytest.mark.parametrize("key", HUGGING_FACE_SIZES + MAMBA2_SIZES)
def test_hugging_face_without_a_size(key: str, tmp_path: Path) -> None:
    raw = hugging_face_config(MAMBA2)
    del raw[key]
    with refused(f"config.json: key '{key}' is missing", "allowed: an integer from 1 to"):
        read_config(write(tmp_path, raw))


ABSURD = {
    "d_model": [0, -1, 2.5, "384", True, None, 10**9],
    "n_layer": [0, 5000],
    "vocab_size": [0, 10**10],
    "pad_vocab_size_multiple": [0, "8"],
    "tie_embeddings": [1, "yes", None],
    "ssm_cfg": [None, [], "Mamba2"],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in ABSURD.items() for value in values]
)
def test_absurd_value(key: str, value: object, tmp_path: Path) -> None:
    with refused(f"config.json: key '{key}' is not usable", f"found: {json.dumps(value)}", "allowed: "):
        read_config(write(tmp_path, mamba_ssm() | {key: value}))


ABSURD_SSM = {
    "layer": ["Mamba3", 2],
    "d_state": [0, 10**6],
    "d_conv": [1, 1000],
    "expand": [0, -2, "2", float("nan")],
    "headdim": [0, 7, 33],
    "ngroups": [0, 3],
    "conv_bias": [1],
    "dt_limit": [5, [0.1], [0.5, 0.1], [-1, 1], [0, None], [0, True]],
    "d_ssm": [32],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in ABSURD_SSM.items() for value in values]
)
def test_absurd_value_in_ssm_cfg(key: str, value: object, tmp_path: Path) -> None:
    with refused(
        f"config.json: key 'ssm_cfg.{key}' is not usable", f"found: {json.dumps(value)}", "allowed: "
    ):
        read_config(write(tmp_path, mamba_ssm(**{key: value})))


@pytest.mark.parametrize("value", [0, -3, "many"])
def test_absurd_dt_rank(value: object, tmp_path: Path) -> None:
    with refused("key 'ssm_cfg.dt_rank' is not usable", "an integer from 1"):
        read_config(write(tmp_path, mamba_ssm(MAMBA1, dt_rank=value)))


INCONSISTENT = {
    "num_heads": 5,
    "intermediate_size": 63,
    "n_groups": 3,
    "head_dim": 15,
    "layer_norm_epsilon": 7,
}


@pytest.mark.parametrize("key", INCONSISTENT)
def test_hugging_face_sizes_that_do_not_fit(key: str, tmp_path: Path) -> None:
    raw = hugging_face_config(MAMBA2) | {key: INCONSISTENT[key]}
    with refused(f"config.json: key '{key}' is not usable", f"found: {INCONSISTENT[key]}", "allowed: "):
        read_config(write(tmp_path, raw))


def test_hybrids_are_refused(tmp_path: Path) -> None:
    with refused("key 'attn_layer_idx' is not usable", "hybrids with attention layers are not supported"):
        read_config(write(tmp_path, mamba_ssm() | {"attn_layer_idx": [3, 9]}))
    with refused("key 'd_intermediate' is not usable", "hybrids with MLP layers are not supported"):
        read_config(write(tmp_path, mamba_ssm() | {"d_intermediate": 1024}))
    with refused("key 'rms_norm' is not usable", "LayerNorm models are not supported"):
        read_config(write(tmp_path, mamba_ssm() | {"rms_norm": False}))
    with refused("key 'hidden_act' is not usable", 'found: "gelu"'):
        read_config(write(tmp_path, hugging_face_config(MAMBA1) | {"hidden_act": "gelu"}))


VARIANT_KEYS = {
    "rmsnorm": (False, "without the gated norm"),
    "norm_before_gate": (True, "the norm comes after the gate"),
    "D_has_hdim": (True, "one D a head"),
    "learnable_init_states": (True, "for mamba2: "),
}


@pytest.mark.parametrize("key", VARIANT_KEYS)
def test_mixer_variants_are_refused(key: str, tmp_path: Path) -> None:
    value, reason = VARIANT_KEYS[key]
    with refused(f"key 'ssm_cfg.{key}' is not usable", f"found: {json.dumps(value)}", reason):
        read_config(write(tmp_path, mamba_ssm(**{key: value})))


def test_keys_that_only_matter_in_training_are_read_over(tmp_path: Path) -> None:
    extra = {
        "dt_min": 0.001,
        "A_init_range": [1, 16],
        "chunk_size": 256,
        "D_has_hdim": False,
        "rmsnorm": True,
    }
    assert read_config(write(tmp_path, mamba_ssm(**extra))) == MAMBA2
