"""Ways of holding a state: what they keep, what they lose, and that the study's scan is the reference's."""

from __future__ import annotations

import pytest
import torch

from quamba_export.calib.model.rewrites import rewrite
from quamba_export.calib.studies.state_formats import (
    Dynamic,
    EveryKth,
    Float8,
    Held,
    Rotated,
    fp16,
    study_formats,
)
from quamba_export.calib.studies.state_study import chosen, state_study, table
from quamba_export.runtime.errors import ExitCode
from tests.exported_graph import CONFIGS, calibrated, quantized
from tests.refusals import refused

ROWS = torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(0))
OUTLIERS = ROWS * torch.where(torch.arange(64) % 16 == 0, 30.0, 1.0)


def error(held: Held, h: torch.Tensor) -> float:
    return float((held(h, 0, 0) - h).norm() / h.norm())


def test_a_rotation_spreads_outliers_that_would_take_the_scale() -> None:
    row, blocks, rotated = (
        error(held, OUTLIERS) for held in (Dynamic(), Dynamic(block=16), Rotated(Dynamic()))
    )
    assert rotated < 0.7 * min(row, blocks)
    assert error(fp16, OUTLIERS) < 0.1 * rotated


def test_chance_rounds_up_as_often_as_the_fraction_says() -> None:
    h = torch.linspace(30.2, 30.3, 4001)[None] * torch.ones(1)
    h = torch.cat([h, torch.full((1, 1), 127.0)], dim=-1)  # a scale of 1
    found = Dynamic(stochastic=True)(h, 0, 0)[0, :-1]
    assert set(found.tolist()) == {30.0, 31.0}
    assert abs(float(found.mean()) - 30.25) < 0.02


@pytest.mark.parametrize("bits", [3, 4])
def test_an_eight_bit_float_has_its_mantissa(bits: int) -> None:
    found = Float8(bits)(ROWS, 0, 0)
    normal = ROWS.abs() > ROWS.abs().amax(-1, keepdim=True) * 2.0 ** (2 - 2**bits)
    assert ((found - ROWS).abs()[normal] <= ROWS.abs()[normal] * 2.0 ** -(8 - bits)).all()


def test_between_two_writes_nothing_is_lost() -> None:
    held = EveryKth(4, Dynamic())
    assert [bool((held(OUTLIERS, 0, t) != OUTLIERS).any()) for t in range(8)] == [
        False,
        False,
        False,
        True,
    ] * 2


@pytest.mark.parametrize("name", ["mamba1", "mamba2 in groups"])
def test_the_study_scores_what_the_reference_gives(name: str) -> None:
    """fp16 and static int8 in the study are the reference's states, but for the order of a sum."""
    config = CONFIGS[name]
    ids = torch.randint(config.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    formats = study_formats(quantized(config, "int8"))
    _, scores = state_study(quantized(config, "float32"), rewrite(*calibrated(config)), ids, formats)
    for held, dtype in (("fp16", "float16"), ("static", "int8")):
        logits, _ = quantized(config, dtype)(ids[:, :-1])
        nats = -torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).mean().item()
        assert scores[held].nats / scores[held].tokens == pytest.approx(nats, abs=2e-3)
    assert table(1.0, scores, formats).count("\n") == 3 + len(formats)


def test_an_unknown_format_is_refused() -> None:
    formats: dict[str, Held] = {"fp16": fp16, "row": Dynamic()}
    assert list(chosen(formats, "row")) == ["row"]
    assert list(chosen(formats, "")) == ["fp16", "row"]
    with refused("no such state format", "--formats 'rwo'", "fp16; row", code=ExitCode.USAGE):
        chosen(formats, "rwo")
