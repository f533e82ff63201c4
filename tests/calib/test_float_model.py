"""The float models against the plain recurrence, against themselves in pieces, and under autograd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, random_checkpoint
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.data import token_stream, windows
from quamba_export.calib.model import mamba1, mamba2
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.mamba1 import selective_scan
from quamba_export.calib.model.mamba2 import ssd_scan
from quamba_export.calib.model.states import States
from quamba_export.plugins.common.hadamard import fold_hadamard

CONFIGS = {"mamba1": MAMBA1, "mamba2": MAMBA2, "mamba2-groups": MAMBA2_GROUPS}
AWKWARD_LENGTHS = st.one_of(st.sampled_from([1, 2, 15, 16, 17, 63, 64, 65, 128, 129]), st.integers(1, 200))

configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def recurrence(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Token by token, as the papers write it; operands broadcast to the state's shape."""
    outputs = []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, ..., None] * A) * h + (dt[:, t] * x[:, t])[..., None] * B[:, t]
        outputs.append((h * C[:, t]).sum(-1))
    return torch.stack(outputs, dim=1), h


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-4 * max(1.0, wanted.abs().max().item())


def scan_inputs(batch: int, length: int, heads: tuple[int, ...], dt_scale: float) -> list[Tensor]:
    """x (batch, length, *heads), dt and A with one value a head, the state with N = 5."""
    x = torch.randn(batch, length, *heads)
    dt = torch.rand(batch, length, heads[0]) * dt_scale
    return [x, dt, -torch.exp(torch.randn(heads[0])), torch.randn(batch, *heads, 5)]


@settings(max_examples=40, deadline=None)
@given(
    length=AWKWARD_LENGTHS, batch=st.integers(1, 3), dt=st.sampled_from([0.0, 0.1, 1.0, 50.0]), data=st.data()
)
def test_ssd_scan_is_the_recurrence(length: int, batch: int, dt: float, data: st.DataObject) -> None:
    groups = data.draw(st.sampled_from([1, 2, 4]))
    torch.manual_seed(length)
    x, steps, A, state = scan_inputs(batch, length, (4, 3), dt)
    B, C = torch.randn(2, batch, length, groups, 5)
    wide = [t.repeat_interleave(4 // groups, dim=2)[:, :, :, None] for t in (B, C)]  # (B, L, H, 1, N)
    wanted = recurrence(x, steps[..., None], A[:, None, None], *wide, state)
    for found, expected in zip(ssd_scan(x, steps, A, B, C, state), wanted, strict=True):
        assert_close(found, expected)


@settings(max_examples=40, deadline=None)
@given(length=AWKWARD_LENGTHS, batch=st.integers(1, 3), dt=st.sampled_from([0.0, 0.1, 1.0, 50.0]))
@pytest.mark.parametrize("scan", [selective_scan, mamba1.scan_chunks], ids=["cpu", "gpu"])
def test_selective_scan_is_the_recurrence(scan, length: int, batch: int, dt: float) -> None:
    torch.manual_seed(length)
    x, steps, A, state = scan_inputs(batch, length, (6,), dt)
    A = A[:, None] * torch.arange(1, 6)  # (E, N)
    B, C = torch.randn(2, batch, length, 5)
    wanted = recurrence(x, steps, A, B[:, :, None], C[:, :, None], state)
    for found, expected in zip(scan(x, steps, A, B, C, state), wanted, strict=True):
        assert_close(found, expected)


def test_scan_gradients_are_the_numeric_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp64, over several chunks and a padded one, with a carried state."""
    monkeypatch.setattr(mamba1, "CHUNK", 3)
    monkeypatch.setattr(mamba2, "CHUNK", 3)
    torch.manual_seed(0)
    x, dt, A, state = (t.double().requires_grad_() for t in scan_inputs(2, 8, (2,), 1.0))
    B, C = torch.randn(2, 2, 8, 5, dtype=torch.float64).requires_grad_()
    wide_A = A.detach()[:, None].repeat(1, 5).requires_grad_()
    for scan in (selective_scan, mamba1.scan_chunks):
        assert torch.autograd.gradcheck(scan, (x, dt, wide_A, B, C, state), fast_mode=True)
    x, B, C, state = x[..., None], B[:, :, None], C[:, :, None], state[:, :, None]  # P = 1, G = 1
    assert torch.autograd.gradcheck(ssd_scan, (x, dt, A, B, C, state), fast_mode=True)


def run_in_pieces(model: FloatMamba, tokens: Tensor, cuts: list[int]) -> tuple[Tensor, States]:
    states, logits = None, []
    for piece in torch.tensor_split(tokens, cuts, dim=1):
        out, states = model(piece, states)
        logits.append(out)
    assert states is not None
    return torch.cat(logits, dim=1), states


def assert_same_run(model: FloatMamba, tokens: Tensor, cuts: list[int]) -> None:
    wanted, states = model(tokens)
    logits, pieced = run_in_pieces(model, tokens, cuts)
    assert_close(logits, wanted)
    for found, expected in zip(pieced.conv + pieced.ssm, states.conv + states.ssm, strict=True):
        assert found.shape == expected.shape
        assert_close(found, expected)


@configs
def test_token_by_token_is_prefill(config: MambaConfig) -> None:
    model = FloatMamba.from_checkpoint(random_checkpoint(config))
    assert_same_run(model, torch.randint(config.vocab_size, (2, 70)), cuts=list(range(1, 70)))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_prefill_in_any_pieces_is_prefill_for_any_sizes(data: st.DataObject) -> None:
    """Odd widths, W from 2 to 5, one head, one state dimension, pieces shorter than the conv."""
    if data.draw(st.booleans()):
        groups = data.draw(st.sampled_from([1, 3]))
        headdim, heads = data.draw(st.sampled_from([1, 5, 16])), groups * data.draw(st.sampled_from([1, 2]))
        kind = {"d_inner": headdim * heads, "headdim": headdim, "n_groups": groups}
        config = replace(MAMBA2, **kind)
    else:
        config = replace(
            MAMBA1, d_inner=data.draw(st.sampled_from([1, 7, 40])), dt_rank=data.draw(st.integers(1, 5))
        )
    config = replace(
        config,
        d_model=data.draw(st.sampled_from([3, 16])),
        d_state=data.draw(st.sampled_from([1, 6, 16])),
        d_conv=data.draw(st.integers(2, 5)),
        tie_embeddings=data.draw(st.booleans()),
        conv_bias=data.draw(st.booleans()),
        proj_bias=data.draw(st.booleans()),
    )
    length = data.draw(st.integers(1, 150))
    cuts = sorted(data.draw(st.sets(st.integers(1, length), max_size=4)) - {length})
    model = FloatMamba.from_checkpoint(random_checkpoint(config))
    assert_same_run(model, torch.randint(config.vocab_size, (2, length)), cuts)


@configs
def test_rows_of_a_batch_do_not_see_each_other(config: MambaConfig) -> None:
    model = FloatMamba.from_checkpoint(random_checkpoint(config))
    tokens = torch.randint(config.vocab_size, (3, 20))
    assert_close(model(tokens)[0][1:2], model(tokens[1:2])[0])


@configs
def test_later_tokens_change_nothing_before_them(config: MambaConfig) -> None:
    model = FloatMamba.from_checkpoint(random_checkpoint(config))
    tokens = torch.randint(config.vocab_size, (1, 90))
    changed = tokens.clone()
    changed[:, 50:] = (changed[:, 50:] + 1) % config.vocab_size
    assert_close(model(changed)[0][:, :50], model(tokens)[0][:, :50])


@configs
def test_gradients_are_those_of_the_run_token_by_token(config: MambaConfig) -> None:
    tokens = torch.randint(config.vocab_size, (2, 33), generator=torch.Generator().manual_seed(0))
    gradients = []
    for cuts in ([], list(range(1, 33))):
        model = FloatMamba.from_checkpoint(random_checkpoint(config))
        model.tensors = {name: tensor.requires_grad_() for name, tensor in model.tensors.items()}
        logits, _ = run_in_pieces(model, tokens, cuts)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        gradients.append({name: tensor.grad for name, tensor in model.tensors.items()})
    for name, wanted in gradients[1].items():
        assert wanted.abs().max() > 0, name
        assert (gradients[0][name] - wanted).abs().max() <= 1e-4 * wanted.abs().max(), name


def sites_of(config: MambaConfig, batch: int, length: int) -> dict[str, tuple[int, ...]]:
    E, N, G, H = config.d_inner, config.d_state, config.n_groups, config.n_heads
    by_kind = {
        "mamba1": {"conv_in": (E,), "x": (E,), "dt_low": (config.dt_rank,), "B": (N,), "C": (N,), "dt": (E,)},
        "mamba2": {
            **{"conv_in_x": (E,), "conv_in_B": (G * N,), "conv_in_C": (G * N,)},
            **{"x": (H, config.headdim), "B": (G, N), "C": (G, N), "dt": (H,)},
        },
    }
    shapes = {"norm_out": (config.d_model,), "z": (E,), "out_proj_in": (E,)} | by_kind[config.kind]
    sites = {site: (batch, length, *shape) for site, shape in shapes.items()}
    return sites | {"ssm_state": (batch, *config.ssm_state_shape)}


@configs
def test_observe_sees_every_site_of_every_layer_once(config: MambaConfig) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []
    model = FloatMamba.from_checkpoint(random_checkpoint(config))
    model(torch.zeros(2, 9, dtype=torch.int64), observe=lambda site, t: seen.append((site, tuple(t.shape))))
    wanted = sites_of(config, 2, 9)
    assert len(seen) == len(wanted) * config.n_layer
    assert dict(seen) == {
        f"layers.{i}.{s}": shape for i in range(config.n_layer) for s, shape in wanted.items()
    }


@configs
def test_sites_hold_what_their_names_say(config: MambaConfig) -> None:
    """dt comes before its bias, conv_in feeds the conv state, the state is the one after the last token."""
    seen: dict[str, Tensor] = {}
    model = FloatMamba.from_checkpoint(random_checkpoint(config))
    _, states = model(torch.randint(config.vocab_size, (1, 12)), observe=seen.__setitem__)
    assert torch.equal(seen["layers.1.ssm_state"], states.ssm[1])
    parts = ["conv_in"] if config.kind == "mamba1" else ["conv_in_x", "conv_in_B", "conv_in_C"]
    conv_in = torch.cat([seen[f"layers.1.{part}"] for part in parts], dim=-1)
    assert torch.equal(conv_in[:, -config.d_conv + 1 :].transpose(1, 2), states.conv[1])
    rows = seen["layers.1.norm_out"] @ model.tensors["backbone.layers.1.mixer.in_proj.weight"].T
    if config.kind == "mamba1":
        assert_close(seen["layers.1.z"], rows[..., config.d_inner :])
        weight = model.tensors["backbone.layers.1.mixer.dt_proj.weight"]
        assert_close(seen["layers.1.dt"], seen["layers.1.dt_low"] @ weight.T)
    else:
        assert_close(seen["layers.1.z"], rows[..., : config.d_inner])
        assert_close(seen["layers.1.dt"], rows[..., -config.n_heads :])


@configs
def test_out_hadamard_undoes_a_folded_weight(config: MambaConfig) -> None:
    tokens = torch.randint(config.vocab_size, (1, 10))
    model = FloatMamba.from_checkpoint(random_checkpoint(config))
    wanted = model(tokens)[0]
    for name in [name for name in model.tensors if name.endswith("out_proj.weight")]:
        model.tensors[name] = fold_hadamard(model.tensors[name]).float()
    model.out_hadamard = True
    assert_close(model(tokens)[0], wanted)


def test_from_checkpoint_leaves_the_checkpoint_alone() -> None:
    checkpoint = random_checkpoint(MAMBA1)
    model = FloatMamba.from_checkpoint(checkpoint)
    model.tensors["lm_head.weight"] = torch.zeros(64, 32)
    assert "lm_head.weight" not in checkpoint.tensors
    assert model(torch.zeros(1, 1, dtype=torch.int64))[0].abs().max() == 0


REFERENCE_PERPLEXITY = {"mamba1-docs-18m": 6.210, "mamba2-docs-19m": 5.858, "mamba2-docs-21m-g8": 5.749}


@pytest.mark.slow
def test_perplexity_of_the_shared_models(shared_model: Path) -> None:
    """4,096 tokens of the validation text in windows of 1,024, every token but a window's first scored."""
    checkpoint = load_checkpoint(shared_model)
    assert checkpoint.tokenizer_path is not None
    text = shared_model.parent.parent / "data" / "validation.txt"
    stream = token_stream(text, checkpoint.tokenizer_path, checkpoint.eos_token_id, limit=4096)
    tokens = torch.from_numpy(windows(stream, 1024))
    with torch.no_grad():
        logits, _ = FloatMamba.from_checkpoint(checkpoint)(tokens)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.exp().item() == pytest.approx(REFERENCE_PERPLEXITY[shared_model.name], abs=0.002)


def test_zero_states_have_the_asked_dtypes() -> None:
    states = States.zeros(MAMBA2, 3, ssm_dtype=torch.float16, conv_dtype=torch.int8)
    assert [t.dtype for t in (states.conv[0], states.ssm[0])] == [torch.int8, torch.float16]
    assert states.conv[1].shape == (3, MAMBA2.conv_dim, 3)
    assert states.ssm[1].shape == (3, MAMBA2.n_heads, MAMBA2.headdim, MAMBA2.d_state)
