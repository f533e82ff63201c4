"""One pass of a float model over the calibration samples: statistics of every observed site.

Layer by layer, samples run in micro-batches of MICRO_BATCH and are folded into the totals one by one in their
order: workers and interruptions leave every bit of the totals as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from quamba_export.calib.data import Tokens
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.layer import Observer as LayerObserver
from quamba_export.calib.model.parts import ModelParts
from quamba_export.calib.model.rewrites import EMBEDDING
from quamba_export.calib.model.states import States
from quamba_export.calib.observers.observer import Measure, Statistic, SumOfMaxima
from quamba_export.calib.progress_file import ProgressFile, Totals
from quamba_export.calib.sample_file import SampleFile
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
    """What one pass over the samples observes."""

    name: str
    samples: int
    observers: Mapping[str, Measure]  # by site
    ranges: Mapping[int, GroupRanges]  # by layer

    def observer(self, samples: Sequence[Totals]) -> LayerObserver:
        """What measures a micro-batch's values at a site (n, ...) into the totals of its n samples."""

        def observe(site: str, values: Tensor) -> None:
            if site in self.observers:
                for sample, value in zip(samples, values, strict=True):
                    sample[site] = self._measure(site, value)

        return observe

    def _measure(self, site: str, values: Tensor) -> Statistic:
        observer, (_, layer, name) = self.observers[site], site.split(".")
        if isinstance(observer, SumOfMaxima):
            return observer.measure(split_channels(values))
        return observer.measure_blocks(split_rows(values, name, self.ranges.get(int(layer))))


@dataclass(frozen=True)
class LayerPass:
    """One layer over a micro-batch, from file to file; as `work` of a worker it measures its sites."""

    index: int
    stage: Stage
    source: SampleFile  # residual stream (n, L, D)
    target: SampleFile  # the same behind the layer

    def __call__(self, model: FloatMamba, samples: Tokens) -> list[Totals]:
        """samples (k,): consecutive numbers of calibration samples -> the statistics of each by site."""
        first, count = int(samples[0]), len(samples)
        found: list[Totals] = [{} for _ in samples]
        conv, ssm = layer_states(model, count)
        with torch.inference_mode():
            residual = self.source.read(first, count, model.device)
            residual, _, _ = model.block(self.index, residual, conv, ssm, self.stage.observer(found))
        self.target.write(first, residual)
        return found


def layer_states(model: FloatMamba, batch: int) -> tuple[Tensor, Tensor]:
    """Of any layer, before the first token."""
    zeros = States.zeros(replace(model.config, n_layer=1), batch, device=model.device)
    return zeros.conv[0], zeros.ssm[0]


@dataclass
class Run:
    """One calibration under way: the samples, who works on them, where their totals are kept.

    All samples go through a layer before any enters the next, and wait in files between two (SampleFile): a
    layer is read once a stage, and one is in memory.
    """

    tokens: Tokens  # (n, L)
    workers: Workers
    file: ProgressFile
    progress: Callable[[Progress], None] | None
    total: int  # samples of all stages
    layers: int

    def __post_init__(self) -> None:
        self._started, self._resumed = time.monotonic(), sum(self.file.done.values())

    def observe(self, stage: Stage, parts: ModelParts) -> Totals:
        """Totals of the stage over its samples, from the layer on where the progress file stands."""
        done = self.file.done.get(stage.name, 0)
        if done < stage.samples * self.layers and not self.workers.keeps_samples:
            done = self._forget(stage.name)
        totals = self.file.totals.setdefault(stage.name, {})
        stream = self.stream(parts.config.d_model)
        if not done:
            totals.clear()
            self.embed(stage.samples, parts, stream)
        for i in range(done // stage.samples, self.layers):
            work = LayerPass(i, stage, stream[i % 2], stream[(i + 1) % 2])
            for measured in self.workers.run(work, parts.layer(i), micro_batches(stage.samples)):
                for number, sample in enumerate(measured, start=done % stage.samples):
                    _fold(totals, sample, stage.observers, number)
                done += len(measured)
                if done % stage.samples:
                    self.report(stage.name, done)
            stream[(i + 1) % 2].to_disk()
            if self.workers.keeps_samples or i == self.layers - 1:
                self.advance(stage.name, done)
            else:
                self.report(stage.name, done)
        return totals

    def _forget(self, stage: str) -> int:
        """Begin `stage` anew, for whoever resumes this run as well: 0 samples are done."""
        self._resumed -= self.file.done.pop(stage, 0)
        self.file.totals[stage] = {}
        self.file.save()
        return 0

    def stream(self, width: int) -> tuple[SampleFile, SampleFile]:
        """The residual stream in front of layers of even number, and of odd number."""
        folder, length = self.file.directory, self.tokens.shape[1]
        return SampleFile(folder / "residual0.bin", length, width), SampleFile(
            folder / "residual1.bin", length, width
        )

    def embed(self, samples: int, parts: ModelParts, stream: Sequence[SampleFile]) -> None:
        """The embedding of the first samples' tokens, in front of layer 0."""
        for file in stream:
            file.create(samples)
        table = parts.ends().tensors[EMBEDDING]
        for numbers in micro_batches(samples):
            stream[0].write(int(numbers[0]), F.embedding(torch.from_numpy(self.tokens[numbers]), table))

    def advance(self, stage: str, done: int) -> None:
        """Keep and report that samples have gone through `done` layers of `stage`, all samples together."""
        self.file.done[stage] = done
        self.file.save()
        self.report(stage, done)

    def report(self, stage: str, done: int) -> None:
        """The same without keeping it: a run that is stopped here does the layer again."""
        if self.progress is not None:
            done = sum((self.file.done | {stage: done}).values())
            speed = (done - self._resumed) / max(time.monotonic() - self._started, 1e-9) / self.layers
            left = self.total - done / self.layers
            self.progress(Progress(stage, done // self.layers, self.total, speed, left / speed))


def micro_batches(samples: int) -> list[Tokens]:
    """Numbers of the samples, MICRO_BATCH at a time."""
    numbers = np.arange(samples)
    return [numbers[first : first + MICRO_BATCH] for first in range(0, samples, MICRO_BATCH)]


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
