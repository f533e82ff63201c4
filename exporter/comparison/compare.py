"""Where a quantized model leaves its float model: per site and per state, through Polygraphy's comparator.

The float side is the model after the exact rewrites, so that both sides have the same basis and the same
channel order; that this model equals the checkpoint is a test of its own. Integer codes are dequantized with
their site's scale. Every figure is over the whole text, window by window in constant memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from polygraphy.comparator import Comparator
from polygraphy.comparator.compare import BaseCompareFunc, CompareResult, Threshold
from polygraphy.logger import G_LOGGER

from quamba_export.exporter.comparison.differences import Difference
from quamba_export.exporter.comparison.runners import SiteRunner
from quamba_export.exporter.console import Advance
from quamba_export.exporter.evaluation.evaluate import Distance, log_softmax
from quamba_export.exporter.evaluation.language_models import Ids

SiteScale = Callable[[str], NDArray[np.float32] | float]  # what a site's codes are multiplied with
DEFAULT_MIN_SNR_DB = 10.0


@dataclass(frozen=True)
class SiteComparison:
    """One tensor of two models over all windows."""

    site: str
    max_abs: float
    mean_abs: float
    cosine: float
    snr_db: float  # infinite (null in JSON) where they are equal
    differing_codes: float | None  # share of the elements, where both sides are int8
    within_tolerance: bool


@dataclass(frozen=True)
class PairComparison:
    """Two models, site by site in the order of computation."""

    reference: str
    candidate: str
    first_beyond_tolerance: str | None
    kl: float  # nats a token, KL(reference || candidate)
    top1_agreement: float
    sites: list[SiteComparison]


class SnrFloor(Threshold):  # type: ignore[misc]
    """Polygraphy's criterion: a tensor passes at `min_snr_db` and above."""

    METRIC_FIELDS = ("max_abs", "mean_abs", "cosine", "snr_db")

    def __init__(self, min_snr_db: float) -> None:
        self.min_snr_db = min_snr_db

    def passed(self, metric_values: dict[str, float]) -> bool:
        return metric_values["snr_db"] >= self.min_snr_db


class SiteResult(CompareResult):  # type: ignore[misc]
    """One tensor in one window, as Polygraphy collects it."""

    _THRESHOLD_CLASS = SnrFloor

    def __init__(self, difference: Difference, differing: int | None, floor: SnrFloor) -> None:
        super().__init__(floor)
        self.difference, self.differing = difference, differing

    def metric_values(self) -> dict[str, float]:
        return {name: getattr(self.difference, name) for name in SnrFloor.METRIC_FIELDS}


class CompareSites(BaseCompareFunc):  # type: ignore[misc]
    """Polygraphy's comparison function: every site that both runners have, dequantized."""

    _RESULT_CLASS = SiteResult

    def __init__(self, site_scale: SiteScale, min_snr_db: float) -> None:
        self.site_scale, self.floor = site_scale, SnrFloor(min_snr_db)

    def __call__(self, reference: Any, candidate: Any) -> dict[str, SiteResult]:
        return {
            site: self.compare(site, reference[site], candidate[site])
            for site in reference
            if site in candidate
        }

    def thresholds_for(self, output_name: str) -> SnrFloor:
        return self.floor

    def compare(self, site: str, a: NDArray[Any], b: NDArray[Any]) -> SiteResult:
        both_codes = a.dtype == np.int8 and b.dtype == np.int8
        difference = Difference.between(self.dequantize(site, a), self.dequantize(site, b))
        return SiteResult(difference, int((a != b).sum()) if both_codes else None, self.floor)

    def dequantize(self, site: str, array: NDArray[Any]) -> NDArray[np.float32]:
        floats = array.astype(np.float32)
        return floats * self.site_scale(site) if array.dtype == np.int8 else floats


class LogitsResult(CompareResult):  # type: ignore[misc]
    """KL and top-1 agreement of one window; never a failure by itself."""

    def __init__(self, distance: Distance) -> None:
        super().__init__()
        self.distance = distance

    def __bool__(self) -> bool:
        return True


def compare_logits(reference: Any, candidate: Any) -> dict[str, LogitsResult]:
    """Polygraphy's comparison function for text: next-token distributions."""
    distance = Distance()
    distance.add(log_softmax(reference["logits"]), log_softmax(candidate["logits"]))
    return {"logits": LogitsResult(distance)}


def compare_runners(
    runners: list[SiteRunner],
    batches: Iterable[Ids],
    site_scale: SiteScale,
    *,
    min_snr_db: float = DEFAULT_MIN_SNR_DB,
    advance: Advance = lambda amount: None,
) -> list[PairComparison]:
    """Run every batch (B, L) through the runners; compare the first with each other one, then those in turn.

    Raises QuambaError only through the runners; a tensor beyond tolerance is reported, not raised.
    """
    G_LOGGER.module_severity = G_LOGGER.CRITICAL  # its log goes to stdout, which belongs to the command
    order = [(0, j) for j in range(1, len(runners))] + [(j, j + 1) for j in range(1, len(runners) - 1)]
    stream = Comparator.run(runners, data_loader=feeds(batches, advance), streaming=True)
    functions = [CompareSites(site_scale, min_snr_db), compare_logits]
    sites, logits = Comparator.compare_accuracy(stream, comparisons=order, compare_func=functions)
    names = [(runners[i].name, runners[j].name) for i, j in order]
    return [pair_comparison(pair, sites[pair], logits[pair], min_snr_db) for pair in names]


def feeds(batches: Iterable[Ids], advance: Advance) -> Iterable[dict[str, Ids]]:
    for batch in batches:
        yield {"input_ids": batch}
        advance(batch.size)


def pair_comparison(
    pair: tuple[str, str],
    sites: list[dict[str, SiteResult]],
    logits: list[dict[str, LogitsResult]],
    min_snr_db: float,
) -> PairComparison:
    """Add the windows up."""
    compared = [site_comparison(site, [window[site] for window in sites], min_snr_db) for site in sites[0]]
    beyond = (site.site for site in compared if not site.within_tolerance)
    distance = sum((window["logits"].distance for window in logits), Distance())
    return PairComparison(
        reference=pair[0],
        candidate=pair[1],
        first_beyond_tolerance=next(beyond, None),
        kl=distance.mean_kl,
        top1_agreement=distance.agreement,
        sites=compared,
    )


def site_comparison(site: str, results: list[SiteResult], min_snr_db: float) -> SiteComparison:
    total = sum((result.difference for result in results), Difference())
    differing = [result.differing for result in results if result.differing is not None]
    return SiteComparison(
        site=site,
        max_abs=total.max_abs,
        mean_abs=total.mean_abs,
        cosine=total.cosine,
        snr_db=total.snr_db,
        differing_codes=sum(differing) / total.count if differing else None,
        within_tolerance=total.snr_db >= min_snr_db,
    )
