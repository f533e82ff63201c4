"""Prefill and decode speed of a bundle on this machine, beside the PyTorch models it comes from.

Everyone runs on the same number of threads in turns, round after round, so that a machine whose speed drifts
slows all of them alike; the medians are compared.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quamba_export.exporter.artefacts import engine_name
from quamba_export.exporter.console import Advance, progress, say
from quamba_export.exporter.speed.bench_result import Benchmark, ByteFloor, Speed, spread
from quamba_export.exporter.speed.power import Energy, find_energy
from quamba_export.runtime.bundle import open_bundle
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine import prefill
from quamba_export.runtime.folder_check import WEIGHTS
from quamba_export.runtime.manifest import Manifest, read_manifest
from quamba_export.runtime.ort_placement import place_nodes
from quamba_export.runtime.ort_session import Provider
from quamba_export.runtime.vnni_probe import cpu_name
from quamba_export.targets.target import targets

Ids = NDArray[np.int64]


class Contestant(Protocol):
    """A model that keeps its own states between calls."""

    name: str

    def start(self, input_ids: Ids) -> None:
        """Forget everything, then read input_ids (1, L); gives the logits of the last token."""

    def step(self, input_ids: Ids) -> None:
        """One more token, (1, 1)."""


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
    bandwidth: float | None = None,
) -> Benchmark:
    """Speed of the bundle or export at `path`; with `against`, of its checkpoint in PyTorch as well.

    provider: of ONNX Runtime, see open_bundle; where it left nodes to the CPU, the result says which.
    bandwidth: GB/s of the memory that the model is in, by default its target's.
    """
    manifest = read_manifest(path)
    in_cuda = provider == "cuda" and manifest.backend == "onnxruntime"  # else there is one place only
    placed = place_nodes(path, manifest, "cuda", threads) if in_cuda else []
    gpu = Cuda() if manifest.backend == "tensorrt" else None
    free = gpu.memory()[0] if gpu else 0
    contestants: list[Contestant] = [BundleContestant(path, threads, provider)]
    left_out = ""
    if against is not None:
        from quamba_export.exporter.speed.bench_models import torch_contestants

        if manifest.sources["calibration"] is not None:
            calibration = calibration or path.parent / "calibration"
        others, left_out = torch_contestants(against, calibration, manifest.qformat, threads)
        contestants += others
        if left_out:
            say(f"left out: {left_out}")
    energy = find_energy(gpu=gpu is not None or in_cuda)
    turns = Turns(manifest.vocab_size, prompt_tokens, new_tokens, rounds)
    with progress(f"bench {path}", len(contestants) * (rounds + 1), "turns") as bar:
        speeds = benchmark(contestants, turns, energy=energy, advance=bar.advance)
    return Benchmark(
        path=str(path),
        cpu=cpu_name(),
        gpu=gpu.name if gpu else "CUDA's current device" if in_cuda else "",
        threads=threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rounds=rounds,
        speeds=speeds,
        left_out=left_out,
        placements=placed,
        energy=energy.source if energy else "",
        host_peak_bytes=None if against else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        device_bytes=max(0, free - gpu.memory()[0]) if gpu else None,
        byte_floor=byte_floor(manifest, bandwidth, speeds[0].tpot.p50),
    )


def byte_floor(manifest: Manifest, bandwidth: float | None, tpot_ms: float) -> ByteFloor | None:
    """What a token of one sequence has to move: all weights and twice the states.

    None without a bandwidth, and for a model whose embedding is not its head: a token reads one row of it.
    """
    gb_per_s = bandwidth or known_bandwidth(manifest.target)
    if not gb_per_s or not manifest.config.get("tie_embeddings"):
        return None
    name = WEIGHTS if manifest.backend == "tensorrt" else "model.onnx.data"
    weights, states = manifest.files[name].size, sum(state.nbytes for state in manifest.states)
    floor = (weights + 2 * states) / (1e6 * gb_per_s)
    return ByteFloor(weights, states, gb_per_s, floor, floor / tpot_ms)


def known_bandwidth(target: str) -> float:
    """Of a target by name, GB/s; 0 for the CPU, and for one of somebody's own file."""
    return next((known.bandwidth_gb_per_s for known in targets() if known.name == target), 0.0)


@dataclass(frozen=True)
class Turns:
    """What everyone does: `rounds` times in turn, after one round that is not counted."""

    vocab_size: int
    prompt_tokens: int
    new_tokens: int
    rounds: int


def benchmark(
    contestants: list[Contestant],
    turns: Turns,
    *,
    energy: Energy | None = None,
    advance: Advance = lambda amount: None,
) -> list[Speed]:
    """Time every contestant on the same random tokens."""
    random = np.random.default_rng(0)
    sizes = turns.prompt_tokens, turns.new_tokens
    prompt, tokens = (random.integers(0, turns.vocab_size, (1, size)) for size in sizes)
    taken = {contestant.name: Taken() for contestant in contestants}
    for turn in range(turns.rounds + 1):
        for contestant in contestants:
            start = seconds(partial(contestant.start, prompt))
            before = energy.joules() if energy else 0.0
            steps = [seconds(partial(contestant.step, tokens[:, t : t + 1])) for t in range(sizes[1])]
            if turn > 0:
                used = energy.joules() - before if energy else 0.0
                taken[contestant.name].add(start, steps, used)
            advance(1)
    if energy:
        energy.close()
    return [speed(name, times, turns, measured=energy is not None) for name, times in taken.items()]


@dataclass
class Taken:
    """What one contestant took in the rounds so far: seconds, and joules."""

    starts: list[float] = field(default_factory=list)
    rounds: list[list[float]] = field(default_factory=list)  # the steps of each
    joules: float = 0.0

    def add(self, start: float, steps: list[float], joules: float) -> None:
        self.starts.append(start)
        self.rounds.append(steps)
        self.joules += joules


def speed(name: str, taken: Taken, turns: Turns, *, measured: bool) -> Speed:
    """measured: whether the joules are."""
    decodes = [sum(steps) for steps in taken.rounds]
    prefill, decode = median(taken.starts), median(decodes)
    return Speed(
        name=name,
        ttft_ms=1e3 * prefill,
        tpot_ms=1e3 * decode / turns.new_tokens,
        prefill_tokens_per_second=turns.prompt_tokens / prefill,
        decode_tokens_per_second=turns.new_tokens / decode,
        ttft=spread(taken.starts),
        tpot=spread([step for steps in taken.rounds for step in steps]),
        ttlt=spread([start + rest for start, rest in zip(taken.starts, decodes, strict=True)]),
        joules_per_token=taken.joules / (turns.rounds * turns.new_tokens) if measured else None,
    )


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
