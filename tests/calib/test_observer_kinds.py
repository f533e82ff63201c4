"""What each observer's limit is, beside a search or a formula of its own; and that a new one is one file."""

import sys

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

import quamba_export.calib.observers as package
from quamba_export.calib.observers.aciq import best_multiple
from quamba_export.calib.observers.kinds import OBSERVERS, find_observers
from quamba_export.calib.observers.outlier_aware import OutlierAware
from quamba_export.calib.observers.percentile import Percentile
from quamba_export.calib.studies.scale_error import ScaleError, error_report

N = 50_000
SHAPES = {
    "gaussian": lambda random: random.standard_normal(N),
    "laplace": lambda random: random.laplace(size=N),
    "uniform": lambda random: random.uniform(-1, 1, N),
    "outliers": lambda random: np.append(random.standard_normal(N - 3), [90, -120, 200]),
    "mostly zero": lambda random: random.laplace(size=N) * (random.random(N) < 0.02),
}


def drawn(shape):
    """Three samples of one row (1, N) fp32."""
    random = np.random.default_rng(7)
    return [torch.from_numpy(SHAPES[shape](random)).float()[None] for _ in range(3)]


def limit_of(kind, values, **options):
    observer = OBSERVERS[kind](**options)
    total = observer.measure(values[0])
    for value in values[1:]:
        total = observer.combine(total, observer.measure(value))
    return float(observer.limit(total)[0])


def error_of(limit, values):
    """Mean squared error of int8 codes with scale limit / 127, negative ones down to -128."""
    scale = limit / 127
    x = torch.cat(values, dim=1).double().numpy()
    return float(np.square(x - scale * np.clip(np.rint(x / scale), -128, 127)).mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_mse_finds_what_a_search_over_the_values_finds(shape):
    values = drawn(shape)
    largest = float(torch.cat(values, dim=1).abs().max())
    searched = min(error_of(limit, values) for limit in largest * np.geomspace(1 / 64, 1, 400))
    assert error_of(limit_of("mse", values), values) <= 1.01 * searched


@pytest.mark.parametrize(("name", "distribution"), [("gaussian", stats.norm()), ("laplace", stats.laplace())])
def test_aciq_minimizes_the_error_of_its_distribution(name, distribution):
    def error(u):
        clipped = integrate.quad(lambda x: (x - u) ** 2 * distribution.pdf(x), u, u + 60)[0]
        return 2 * clipped + (u / 127) ** 2 / 12

    found = optimize.minimize_scalar(error, bounds=(2, 20), method="bounded", options={"xatol": 1e-9}).x
    assert best_multiple(name) == pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize(("shape", "unit"), [("gaussian", 1.0), ("laplace", 1.0)])
def test_aciq_on_its_own_distribution(shape, unit):
    values = drawn(shape)
    largest = float(torch.cat(values, dim=1).abs().max())
    expected = min(best_multiple(shape) * unit, largest)
    assert limit_of("aciq", values, distribution=shape) == pytest.approx(expected, rel=0.01)


def test_entropy_keeps_an_even_spread_and_clips_a_thin_tail():
    assert limit_of("entropy", drawn("uniform")) > 0.95
    assert limit_of("entropy", drawn("outliers")) < 20


def test_outlier_aware_leaves_the_last_codes():
    values = drawn("laplace")[:1]
    percentile = limit_of("percentile", values, alpha=0.99)
    assert limit_of("outlier-aware", values) / 127 == pytest.approx(percentile / 120)
    assert OutlierAware(inlier_code=127).limit(OutlierAware().measure(values[0])) == percentile


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", OBSERVERS)
def test_a_limit_is_within_the_values_and_scales_with_them(kind, shape):
    values = drawn(shape)
    largest = float(torch.cat(values, dim=1).abs().max())
    limit = limit_of(kind, values)
    assert 0 <= limit <= largest
    assert limit_of(kind, [8 * value for value in values]) == pytest.approx(8 * limit, rel=1e-9)


@pytest.mark.parametrize("kind", OBSERVERS)
def test_rows_of_zeros_have_no_limit(kind):
    values = [torch.zeros(1, 300)] * 2
    with np.errstate(all="raise"):
        assert limit_of(kind, values) < 2.0**-60


@pytest.mark.parametrize("kind", ["absmax", "mse", "entropy"])
def test_the_order_of_the_samples_changes_no_bit(kind):
    values = [value * scale for value, scale in zip(drawn("outliers"), (1, 300, 0.01), strict=True)]
    assert limit_of(kind, values) == limit_of(kind, values[::-1]) == limit_of(kind, [values[1], *values[::2]])


@pytest.mark.parametrize("kind", OBSERVERS)
def test_only_an_observer_of_each_sample_sees_where_samples_end(kind):
    (values,) = drawn("laplace")[:1]
    halves = limit_of(kind, [values[:, : N // 2], values[:, N // 2 :]])
    assert (halves != pytest.approx(limit_of(kind, [values]), rel=1e-9)) == OBSERVERS[kind].of_each_sample


@pytest.mark.parametrize(
    ("observer", "least"),
    [
        (Percentile(0.9), 10),
        (Percentile(0.9995), 2000),
        (Percentile(0.99999), 100_000),
        (Percentile(1.0), 1),
        (OBSERVERS["entropy"](), 128),
        (OBSERVERS["absmax"](), 1),
    ],
)
def test_how_many_values_a_limit_needs(observer, least):
    assert observer.least_values == least


def test_the_error_of_a_scale_is_that_of_its_codes():
    values, scale = drawn("outliers")[0], np.array([0.03], dtype=np.float32)
    report = error_report(ScaleError(scale).measure(values))
    codes = torch.round(values / 0.03)
    after = codes.clamp(-128, 127) * np.float32(0.03)
    error = (values - after).double()
    assert report["clipped_share"] == float(((codes < -128) | (codes > 127)).double().mean())
    assert report["mse"] == pytest.approx(float(error.square().mean()), rel=1e-6)
    assert report["snr_db"] == pytest.approx(
        10 * float(torch.log10(values.double().square().mean() / error.square().mean())), rel=1e-6
    )
    assert (report["max_before"], report["max_after"]) == (200.0, pytest.approx(128 * 0.03))


NEW = """
from dataclasses import dataclass
from typing import ClassVar

from quamba_export.calib.observers.absmax import AbsoluteMaximum
from quamba_export.calib.recipes.options import number


@dataclass(frozen=True)
class Half(AbsoluteMaximum):
    kind: ClassVar[str] = "KIND"
    share: float = number(0.5, above=0, most=1)

    def limit(self, total):
        return self.share * super().limit(total)
"""


def test_a_new_observer_is_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    for name, kind in (("half", "half"), ("twin", "absmax")):
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
        (tmp_path / f"{name}.py").write_text(NEW.replace("KIND", kind))
        if kind == "half":
            assert set(find_observers()) - set(OBSERVERS) == {"half"}
            assert find_observers()["half"](share=0.25).as_table() == {"kind": "half", "share": 0.25}
    with pytest.raises(RuntimeError, match="both of kind 'absmax'"):
        find_observers()
