"""The study of roundings: its models are the calibration's, and its lines tell one way from another."""

from __future__ import annotations

import pytest
import torch
from random_checkpoints import MAMBA1, MAMBA2_GROUPS, random_checkpoint

from quamba_export.calib.data import calibration_windows
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.rounding.gptq import Gptq
from quamba_export.calib.studies.rounding_study import Row, gptq_options, rounded_model, score, table
from quamba_export.runtime.errors import ExitCode
from tests.refusals import refused


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2_GROUPS], ids=["mamba1", "mamba2-g2"])
def test_a_line_of_a_table_is_a_models_distance_to_float(folder, config):
    checkpoint = random_checkpoint(config, 0, folder / "tokenizer.json")
    text = calibration_windows(folder / "text.txt", checkpoint.tokenizer_path, 0, count=8, size=12)
    plain, better = (gptq_options(options) for options in ("", "descent_sweeps=2, damping=0.1"))
    rows = [Row(str(way), *rounded_model(checkpoint, text[:6], way)) for way in (plain, better)]
    exact = FloatMamba.from_checkpoint(checkpoint)
    score(exact, [*rows, itself := Row("float", exact, rows[0].errors)], text[6:])
    assert itself.kl == 0
    assert itself.nats == itself.float_nats
    first = torch.from_numpy(text[6:])
    ours, theirs = (model(first)[0][:, :-1].log_softmax(-1) for model in (exact, rows[0].model))
    kl = (ours.exp() * (ours - theirs)).sum(-1).mean()
    assert rows[0].kl / rows[0].tokens == pytest.approx(float(kl), rel=1e-3)
    assert rows[0].tokens == 2 * 11
    lines = table(rows).splitlines()
    assert len(lines) == 4
    errors = [float(line.strip("| ").split(" | ")[-2]) for line in lines[2:]]  # of in_proj
    assert errors[1] < errors[0]


def test_options_are_those_of_gptq_and_others_are_refused_in_words():
    assert gptq_options("") == Gptq()
    assert gptq_options("damping=0.1,act_order=false") == Gptq(damping=0.1, act_order=False)
    with refused("did you mean damping"):
        gptq_options("dampin=1")
    with refused("options that cannot be read", "damping"):
        gptq_options("damping=")
    with refused("no such rounding", code=ExitCode.USAGE):
        gptq_options("bits=8")
