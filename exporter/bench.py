"""Prefill and decode speed of a bundle on this machine, beside the PyTorch models it comes from.

Everyone runs on the same number of threads in turns, round after round, so that a machine whose speed drifts
slows all of them alike; the medians are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quamba_export.exporter.artefacts import engine_name
from quamba_export.exporter.console import Advance, progress
from quamba_export.runtime.bundle import open_bundle
from quamba_export.runtime.engine import prefill
from quamba_export.runtime.manifest import read_manifest
from quamba_export.runtime.ort_placement import Placement, place_nodes
from quamba_export.runtime.ort_session import Provider
from quamba_export.runtime.vnni_probe import cpu_name

Ids = NDArray[np.int64]


class Contestant(Protocol):
    """A model that keeps its own states between calls."""

    name: str

    def start(self, input_ids: Ids) -> None:
        """Forget everything, then read input_ids (1, L); gives the logits of the last token."""

    def step(self, input_ids: Ids) -> None:
        """One more token, (1, 1)."""


@dataclass(frozen=True)
class Speed:
    """Medians over the rounds of one contestant; milliseconds and tokens a second, batch 1."""

    name: str
    ttft_ms: float
    tpot_ms: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float


@dataclass(frozen=True)
class Benchmark:
    """The `--json` object of `bench`."""

    path: str
    cpu: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    rounds: int
    speeds: list[Speed]
    placements: list[Placement]  # with provider cuda: where the nodes of a decode step ran


def bench_bundle(
    path: Path,
    *,
    against: str | None,
    calibration: Path | None,
    threads: int,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    provider: Provider | None = None,
) -> Benchmark:
    """Speed of the bundle or export at `path`; with `against`, of its checkpoint in PyTorch as well.

    provider: of ONNX Runtime, see open_bundle; where it left nodes to the CPU, the result says which.
    """
    manifest = read_manifest(path)
    in_cuda = provider == "cuda" and manifest.backend == "onnxruntime"  # else there is one place only
    placed = place_nodes(path, manifest, "cuda", threads) if in_cuda else []
    contestants: list[Contestant] = [BundleContestant(path, threads, provider)]
    if against is not None:
        from quamba_export.exporter.bench_models import torch_contestants

        if manifest.sources["calibration"] is not None:
            calibration = calibration or path.parent / "calibration"
        contestants += torch_contestants(against, calibration, manifest.qformat, threads)
    with progress(f"bench {path}", len(contestants) * (rounds + 1), "turns") as bar:
        speeds = benchmark(
            contestants,
            manifest.vocab_size,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            rounds=rounds,
            advance=bar.advance,
        )
    return Benchmark(str(path), cpu_name(), threads, prompt_tokens, new_tokens, rounds, speeds, placed)


def benchmark(
    contestants: list[Contestant],
    vocab_size: int,
    *,
    prompt_tokens: int,
    new_tokens: int,
    rounds: int,
    advance: Advance = lambda amount: None,
) -> list[Speed]:
    """Time every contestant on random tokens, `rounds` times in turn after one round that is not counted."""
    random = np.random.default_rng(0)
    prompt, tokens = (random.integers(0, vocab_size, (1, size)) for size in (prompt_tokens, new_tokens))
    starts: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    steps: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(rounds + 1):
        for contestant in contestants:
            starts[contestant.name].append(seconds(partial(contestant.start, prompt)))
            steps[contestant.name].append(seconds(partial(step_through, contestant, tokens)))
            advance(1)
    medians = ((name, median(starts[name][1:]), median(steps[name][1:])) for name in starts)
    return [speed(*times, prompt_tokens, new_tokens) for times in medians]


def speed(name: str, prefill: float, decode: float, prompt_tokens: int, new_tokens: int) -> Speed:
    """prefill: seconds of the prompt; decode: seconds of all new tokens."""
    return Speed(
        name=name,
        ttft_ms=1e3 * prefill,
        tpot_ms=1e3 * decode / new_tokens,
        prefill_tokens_per_second=prompt_tokens / prefill,
        decode_tokens_per_second=new_tokens / decode,
    )


def step_through(contestant: Contestant, tokens: Ids) -> None:
    for position in range(tokens.shape[1]):
        contestant.step(tokens[:, position : position + 1])


def seconds(call: Callable[[], None]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class BundleContestant:
    """The bundle on the engine that the device runs."""

    def __init__(self, path: Path, threads: int, provider: Provider | None) -> None:
        opened = open_bundle(path, threads=threads, provider=provider)
        self.name = engine_name(opened.manifest, provider)
        self.engine = opened.engine
        self.states: Any = None

    def start(self, input_ids: Ids) -> None:
        _, self.states = prefill(self.engine, input_ids)

    def step(self, input_ids: Ids) -> None:
        _, self.states = self.engine.run(input_ids, self.states)
