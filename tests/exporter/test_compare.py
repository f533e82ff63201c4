"""`compare` through Polygraphy, on runners small enough to work the figures out by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from quamba_export.exporter.comparison.compare import compare_runners
from quamba_export.exporter.comparison.differences import Difference
from quamba_export.exporter.comparison.runners import SiteRunner

LOGITS = np.array([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]], dtype=np.float32)  # (1, 2, 3)


class FixedRunner(SiteRunner):
    """Gives the same tensors whatever it is fed."""

    def __init__(self, name: str, **sites: NDArray) -> None:
        super().__init__(name=name)
        self.fixed = {site.replace("__", "."): array for site, array in sites.items()} | {"logits": LOGITS}

    def sites(self, input_ids: NDArray[np.int64]) -> dict[str, NDArray]:
        return self.fixed


def batches(count: int = 1) -> list[NDArray[np.int64]]:
    return [np.zeros((1, 2), dtype=np.int64)] * count


def test_codes_are_dequantized_with_their_site_scale() -> None:
    reference = FixedRunner("float", layers__0__x=np.array([1.0, -2.0, 3.0], dtype=np.float32))
    candidate = FixedRunner("pytorch", layers__0__x=np.array([2, -4, 7], dtype=np.int8))
    (pair,) = compare_runners([reference, candidate], batches(2), lambda site: 0.5)
    site = pair.sites[0]
    assert (site.site, site.max_abs, site.mean_abs) == ("layers.0.x", 0.5, pytest.approx(0.5 / 3))
    assert site.snr_db == pytest.approx(10 * math.log10(14 / 0.25))
    assert site.differing_codes is None
    assert pair.top1_agreement == 1.0
    assert pair.kl == pytest.approx(0.0, abs=1e-7)


def test_three_runners_give_float_pairs_and_the_share_of_codes_that_differ() -> None:
    reference = FixedRunner("float", layers__0__x=np.ones(4, dtype=np.float32))
    pytorch = FixedRunner("pytorch", layers__0__x=np.array([10, 10, 10, 10], dtype=np.int8))
    onnx = FixedRunner("onnxruntime", layers__0__x=np.array([10, 10, 10, 11], dtype=np.int8))
    pairs = compare_runners([reference, pytorch, onnx], batches(), lambda site: 0.1)
    named = {(pair.reference, pair.candidate): pair for pair in pairs}
    assert list(named) == [("float", "pytorch"), ("float", "onnxruntime"), ("pytorch", "onnxruntime")]
    assert named["pytorch", "onnxruntime"].sites[0].differing_codes == 0.25
    assert named["float", "pytorch"].first_beyond_tolerance is None


def test_the_first_site_beyond_tolerance_is_named_in_order_of_computation() -> None:
    good, bad = np.ones(4, dtype=np.float32), np.full(4, 3.0, dtype=np.float32)
    sites = ("layers__0__x", "layers__0__dt", "layers__1__x")
    reference = FixedRunner("float", **dict.fromkeys(sites, good))
    candidate = FixedRunner("pytorch", layers__0__x=good, layers__0__dt=bad, layers__1__x=bad)
    (pair,) = compare_runners([reference, candidate], batches(), lambda site: 1.0)
    assert pair.first_beyond_tolerance == "layers.0.dt"
    assert [site.within_tolerance for site in pair.sites] == [True, False, False, True]


def test_differences_add_up_to_the_difference_of_the_whole() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 64)).astype(np.float32)
    parts = Difference.between(a[:10], b[:10]) + Difference.between(a[10:], b[10:])
    whole = Difference.between(a, b)
    for name in ("count", "max_abs", "mean_abs", "cosine", "snr_db"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name)), name


@pytest.mark.parametrize(
    ("a", "b", "snr_db", "cosine"),
    [([0.0], [0.0], math.inf, 1.0), ([0.0], [1.0], -math.inf, 0.0), ([2.0], [2.0], math.inf, 1.0)],
)
def test_differences_of_zero_tensors_have_defined_figures(
    a: list[float], b: list[float], snr_db: float, cosine: float
) -> None:
    difference = Difference.between(np.array(a), np.array(b))
    assert (difference.snr_db, difference.cosine) == (snr_db, cosine)
