import dataclasses
import json
from functools import partial

import pytest
import torch
from calib_runs import LENGTH, SAMPLES, calibrate_random, files
from random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, random_checkpoint

from quamba_export.calib.calibrate import calibrate
from quamba_export.calib.calibration import read_calibration
from quamba_export.calib.data import calibration_windows
from quamba_export.calib.model.rewrites import rewrite
from quamba_export.calib.observation import MICRO_BATCH
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.calib.sites import site_names
from quamba_export.runtime.errors import ExitCode, QuambaError


@pytest.fixture
def run(folder):
    return partial(calibrate_random, folder)


def tokens(folder):
    return calibration_windows(folder / "text.txt", folder / "tokenizer.json", 0, count=SAMPLES, size=LENGTH)


def observed(folder, config, calibration):
    """Every site of the rewritten model over all samples at once: site -> (samples, ...)."""
    values = {}
    model = rewrite(random_checkpoint(config), calibration)
    with torch.no_grad():
        model(torch.from_numpy(tokens(folder)), observe=values.__setitem__)
    return values


@pytest.mark.parametrize("config", [MAMBA2, MAMBA2_GROUPS], ids=["g1", "g2"])
def test_quamba2_scales_are_the_maxima_of_their_groups(run, folder, config):
    calibration = run(config)
    values = observed(folder, config, calibration)
    assert values.keys() == calibration.scales.keys() == calibration.statistics.keys()
    for site, value in values.items():
        layer, name = int(site.split(".")[1]), site.split(".")[2]
        scale, ranges = calibration.scales[site], calibration.ranges(layer)
        largest = value.abs().flatten(0, 1) if name != "ssm_state" else value.abs()
        if name in ("x", "ssm_state"):
            channel_scale = scale.flatten(0, 2)[ranges.index(config.n_heads)]  # (H, P[, N])
            codes = largest.amax(0) / channel_scale
            assert float(codes.max()) <= 127.001
            reached = set(channel_scale[codes > 126.99].tolist())
            assert reached == set(scale.flatten().tolist())  # every group's scale is some channel's maximum
        else:
            expected = largest.amax((0, 2)) if name in ("B", "C") else largest.max()
            torch.testing.assert_close(scale, expected / 127, rtol=1e-4, atol=0)


def test_the_permutation_sorts_the_mean_maxima_of_x(run, folder):
    calibration = run(MAMBA2)
    loudness = observed(folder, MAMBA2, calibration)["layers.0.x"].abs().amax(1).mean(0)  # (H, P), reordered
    assert (torch.diff(loudness, dim=1) <= 1e-6).all()


def test_quamba_clips_x_by_a_smoothed_percentile(run, folder):
    recipe = dataclasses.replace(load_recipe("quamba"), observers=load_recipe("quamba-1b").observers)
    calibration = run(MAMBA1, recipe=recipe)
    values = observed(folder, MAMBA1, calibration)
    for site, value in values.items():
        expected = value.abs().max().double()
        clipped = site.endswith((".x", ".ssm_state"))
        if clipped:
            quantiles = torch.quantile(value.abs().double().flatten(1), 0.9995, dim=1)
            expected = quantiles[0]
            for quantile in quantiles[1:]:
                expected = expected + 0.01 * (quantile - expected)
        torch.testing.assert_close(calibration.scales[site].double(), expected / 127, rtol=1e-4, atol=0)
        statistic = calibration.statistics[site]
        assert statistic["absmax"] == pytest.approx(float(value.abs().max()), rel=1e-4)
        assert (statistic["clipped_share"] > 0) == clipped


def test_quamba_on_mamba2_has_one_scale_a_tensor(run):
    calibration = run(MAMBA2, recipe=load_recipe("quamba"))
    assert all(scale.shape == () for scale in calibration.scales.values())
    assert not calibration.permutation


def test_default_recipe_and_what_is_recorded(run, folder, tmp_path):
    run(MAMBA2, out_dir=tmp_path / "calibration")
    record = json.loads((tmp_path / "calibration" / "calibration.json").read_text())
    assert record["recipe"]["name"] == "quamba2"
    assert (record["run"]["samples"], record["run"]["tokens_per_sample"]) == (SAMPLES, LENGTH)
    assert record["run"]["micro_batch"] == MICRO_BATCH
    assert record["run"]["data"] == "text.txt"
    names = [rewrite["name"] for rewrite in record["run"]["rewrites"]]
    assert names == ["fuse_norms", "rotate_residual", "reorder_channels", "rotate_out_proj"]
    assert record["run"]["rewrites"][0]["untied_head"]


def test_any_number_of_workers_gives_the_same_bytes(run, tmp_path):
    for workers in (1, 2):
        run(MAMBA2, workers=workers, out_dir=tmp_path / str(workers))
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_progress_counts_the_samples_of_all_stages(run):
    seen = []
    run(MAMBA2, progress=seen.append)
    assert [(p.stage, p.done, p.total) for p in seen] == [
        *(("channels", done, 30) for done in (2, 4, 5, 7, 9, 10)),  # two layers, three micro-batches each
        *(("scales", done, 30) for done in (12, 14, 15, 17, 19, 20)),
        *(("errors", done, 30) for done in (22, 24, 25, 27, 29, 30)),
    ]
    assert all(p.samples_per_s > 0 for p in seen)
    assert seen[-1].eta_s == 0


def test_without_an_output_directory_nothing_is_left(run, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert sorted(run(MAMBA1).scales) == sorted(site_names(MAMBA1))
    assert not list(tmp_path.iterdir())


def test_the_artefact_that_is_written_is_the_one_returned(run, tmp_path):
    calibration = run(MAMBA2, out_dir=tmp_path / "c")
    assert read_calibration(tmp_path / "c").digest == calibration.digest


def test_a_seed_draws_other_samples(run):
    assert run(MAMBA1).run["data_digest"] != run(MAMBA1, seed=0).run["data_digest"]


def test_dead_sites_get_a_scale(run, folder):
    checkpoint = random_checkpoint(MAMBA1, 0, folder / "tokenizer.json")
    name = "backbone.layers.0.mixer.in_proj.weight"
    checkpoint.tensors[name] = torch.zeros_like(checkpoint.tensors[name])
    calibration = calibrate(checkpoint, folder / "text.txt", calib_size=2, calib_seqlen=8)
    assert calibration.statistics["layers.0.z"]["dead_scales"] == 1
    assert float(calibration.scales["layers.0.z"]) > 0


def test_weights_that_overflow_are_a_numeric_error(folder):
    checkpoint = random_checkpoint(MAMBA1, 0, folder / "tokenizer.json")
    checkpoint.tensors["backbone.layers.1.mixer.D"].fill_(3e38)
    with pytest.raises(QuambaError, match=r"not finite at site 'layers\.1\.out_proj_in'") as caught:
        calibrate(checkpoint, folder / "text.txt", calib_size=2, calib_seqlen=8)
    assert caught.value.code == ExitCode.NUMERIC


def test_bad_requests_are_refused_before_the_run(run, folder, tmp_path):
    with pytest.raises(QuambaError, match=r"(?s)too little.*found: 401 tokens.*at least 408 tokens"):
        run(MAMBA1, calib_size=34)
    with pytest.raises(QuambaError, match="needs heads"):
        run(MAMBA1, recipe=load_recipe("quamba2"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(QuambaError, match="is in the way"):
        run(MAMBA1, out_dir=tmp_path / "notes")
    with pytest.raises(QuambaError, match="below 32"):
        run(dataclasses.replace(MAMBA1, vocab_size=32))
    with pytest.raises(QuambaError, match="has no tokenizer"):
        calibrate(random_checkpoint(MAMBA1), folder / "text.txt")
