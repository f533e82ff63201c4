"""One pass of a float model over the calibration samples: statistics of every observed site.

Samples run in micro-batches of MICRO_BATCH and are folded into the totals one by one in their order: workers
and interruptions leave every bit of the totals as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from quamba_export.calib.data import Tokens
from quamba_export.calib.device import CPU
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.rewrites import EMBEDDING, HEAD
from quamba_export.calib.observers.observer import Measure, Statistic, SumOfMaxima
from quamba_export.calib.progress_file import ProgressFile, Totals
from quamba_export.calib.sites import GroupRanges, split_channels, split_rows
from quamba_export.calib.workers import Workers
from quamba_export.runtime.errors import ExitCode, QuambaError

MICRO_BATCH = 4  # samples; larger ones are no faster on a CPU


@dataclass(frozen=True)
class Progress:
    """Where a calibration stands: samples of all stages; eta_s, seconds left, goes by this run's speed."""

    stage: str
    done: int
    total: int
    samples_per_s: float
    eta_s: float


@dataclass(frozen=True)
class Stage:
    """What one pass over the samples observes; as `work` of a worker it measures a micro-batch."""

    name: str
    samples: int
    observers: Mapping[str, Measure]  # by site
    ranges: Mapping[int, GroupRanges]  # by layer

    def __call__(self, model: FloatMamba, tokens: Tokens) -> list[Totals]:
        """tokens (n, L) -> the statistics of each sample by site."""
        samples: list[Totals] = [{} for _ in tokens]

        def observe(site: str, values: Tensor) -> None:
            if site in self.observers:
                for sample, value in zip(samples, values, strict=True):
                    sample[site] = self._measure(site, value)

        with torch.inference_mode():
            model(torch.from_numpy(tokens).to(model.device), observe=observe)
        return samples

    def _measure(self, site: str, values: Tensor) -> Statistic:
        observer, (_, layer, name) = self.observers[site], site.split(".")
        if isinstance(observer, SumOfMaxima):
            return observer.measure(split_channels(values))
        return observer.measure_blocks(split_rows(values, name, self.ranges.get(int(layer))))


@dataclass
class Run:
    """One calibration under way: the samples, who works on them, where their totals are kept."""

    tokens: Tokens  # (n, L)
    workers: Workers
    file: ProgressFile
    progress: Callable[[Progress], None] | None
    total: int  # samples of all stages
    device: torch.device = CPU

    def __post_init__(self) -> None:
        self._started, self._resumed = time.monotonic(), sum(self.file.done.values())

    def observe(self, stage: Stage, model: FloatMamba) -> Totals:
        """Totals of the stage over its samples, from where the progress file stands."""
        done = self.file.done.get(stage.name, 0)
        totals = self.file.totals.setdefault(stage.name, {})
        model = replace(model, tensors={**model.tensors, HEAD: model.tensors[EMBEDDING][:1]}).to(
            self.device
        )  # logits: unread
        samples = self.tokens[: stage.samples]
        batches = [samples[first : first + MICRO_BATCH] for first in range(done, len(samples), MICRO_BATCH)]
        for measured in self.workers.run(stage, model, batches):
            for number, sample in enumerate(measured, start=done):
                _fold(totals, sample, stage.observers, number)
            done += len(measured)
            self.advance(stage.name, done)
        return totals

    def advance(self, stage: str, done: int) -> None:
        """Keep and report that `stage` has done so many samples."""
        self.file.done[stage] = done
        self.file.save()
        if self.progress is not None:
            done = sum(self.file.done.values())
            speed = (done - self._resumed) / max(time.monotonic() - self._started, 1e-9)
            self.progress(Progress(stage, done, self.total, speed, (self.total - done) / speed))


def _fold(totals: Totals, sample: Totals, observers: Mapping[str, Measure], number: int) -> None:
    for site, statistic in sample.items():
        if not np.isfinite(statistic["absmax"]).all():
            raise QuambaError(
                f"the float model gives values that are not finite at site '{site}'",
                found=f"Inf or NaN in calibration sample {number}",
                fix="check the checkpoint's weights",
                code=ExitCode.NUMERIC,
            )
        totals[site] = observers[site].combine(totals[site], statistic) if site in totals else statistic
