"""Two files of measured speeds side by side, with the aims: tables for docs/gpu-results.md.

    python -m quamba_export.exporter.speed.gpu_speed_table ours.jsonl theirs.jsonl

An aim is a factor over the other engine in the same run, or a time that llama.cpp needed on the same kind of
GPU. Where a size was measured more than once, the last line counts. In brackets: the other engine's time when
its tokens stay on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from quamba_export.exporter.cli import leave_with_code
from quamba_export.exporter.speed.gpu_speed import GpuSpeed, read_speeds
from quamba_export.runtime.errors import QuambaError

FASTER = {"TPOT, batch 1": {"w8a8": 2.0, "w4a8": 2.5}, "TTFT(512)": {"w8a8": 4.0, "w4a8": 4.0}}
FLAT = 0.05  # by which TPOT may differ between contexts
LLAMA_CPP = {  # ms on an H200, 2026-11-20: the best of F16, Q8_0 and Q4_K_M, random weights, CUDA graphs on
    "mamba2-130m": {"TPOT, batch 1": 0.81, "TTFT(512)": 4.4},
    "mamba2-780m": {"TPOT, batch 1": 1.81, "TTFT(512)": 12.2},
    "mamba2-2.7b": {"TPOT, batch 1": 3.31, "TTFT(512)": 24.6},
    "mamba-130m": {"TPOT, batch 1": 0.91, "TTFT(512)": 10.0},
    "mamba-2.8b": {"TPOT, batch 1": 3.53, "TTFT(512)": 38.1},
}


@dataclass(frozen=True)
class Row:
    """One time of both, in ms."""

    figure: str
    ours: float
    theirs: float
    free_running: float | None  # theirs, its tokens left on the GPU
    faster: float | None  # the aim: times faster than theirs
    below: float | None  # the aim: ms

    @property
    def times(self) -> float:
        return self.theirs / self.ours

    @property
    def aim(self) -> str:
        """The aims in words, and whether each is met; empty where there is none."""
        aims = [] if self.faster is None else [(f"{self.faster:g} times", self.times >= self.faster)]
        aims += [] if self.below is None else [(f"below {self.below:g} ms", self.ours < self.below)]
        return ", ".join(f"{aim}: {'met' if met else 'short'}" for aim, met in aims)


def rows(ours: GpuSpeed, theirs: GpuSpeed) -> list[Row]:
    """Every time that both have: TTFT by prompt, then TPOT by batch."""
    times: list[tuple[str, float, float | None, float | None]] = [
        (f"TTFT({n})", ms, theirs.ttft_ms.get(n), None) for n, ms in ours.ttft_ms.items()
    ]
    times += [
        (f"TPOT, batch {n}", ms, theirs.tpot_ms.get(n), theirs.free_running_tpot_ms.get(n))
        for n, ms in ours.tpot_ms.items()
    ]
    below = LLAMA_CPP.get(ours.size, {})
    return [
        Row(figure, ms, other, left, FASTER.get(figure, {}).get(ours.numbers), below.get(figure))
        for figure, ms, other, left in times
        if other is not None
    ]


def compared(ours: list[GpuSpeed], theirs: list[GpuSpeed]) -> list[tuple[GpuSpeed, GpuSpeed]]:
    """Our speeds with theirs of the same size. Raises QuambaError where none is of the same size and GPU."""
    others = {(speed.size, speed.gpu): speed for speed in theirs}
    latest = {(speed.size, speed.gpu, speed.numbers): speed for speed in ours}
    pairs = [(speed, others[key[:2]]) for key, speed in latest.items() if key[:2] in others]
    if not pairs:
        raise QuambaError(
            "the two files have no model in common",
            found=", ".join(f"{size} on {gpu}" for size, gpu, _ in latest) or "no line in the first",
            allowed=", ".join(f"{size} on {gpu}" for size, gpu in others) or "no line in the second",
            fix="measure the same sizes on the same machine",
        )
    return pairs


def times_table(pairs: list[tuple[GpuSpeed, GpuSpeed]]) -> Iterator[str]:
    first, other = pairs[0]
    yield f"| size | ms | {first.engine} | {other.engine}, {other.numbers} | times faster | aim |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for ours, theirs in pairs:
        for row in rows(ours, theirs):
            left = "" if row.free_running is None else f" ({row.free_running:.3f})"
            yield (
                f"| {ours.size}, {ours.numbers} | {row.figure} | {row.ours:.3f} | {row.theirs:.3f}{left} "
                f"| {row.times:.2f} | {row.aim} |"
            )


def bytes_table(speeds: list[GpuSpeed]) -> Iterator[str]:
    """What the memory of the GPU allows, and how much of it is taken."""
    batches = [batch for batch in speeds[0].tpot_ms if all(batch in speed.tpot_ms for speed in speeds)]
    header = " | ".join(f"share of the floor, batch {batch}" for batch in batches)
    yield f"| size | engine | GB/s | a token reads, MB | {header} | peak memory, MiB |"
    yield "| --- | --- | --- | --- |" + " --- |" * (len(batches) + 1)
    for speed in speeds:
        shares = " | ".join(f"{speed.floor_share(int(batch)):.0%}" for batch in batches)
        megabytes = (speed.weight_bytes + 2 * speed.state_bytes) / 1e6
        peak = ", ".join(f"{mib:.0f} (batch {batch})" for batch, mib in speed.peak_mib.items())
        engine = f"{speed.engine}, {speed.numbers}"
        yield f"| {speed.size} | {engine} | {speed.gb_per_s:.0f} | {megabytes:.0f} | {shares} | {peak} |"


def context_table(speeds: list[GpuSpeed]) -> Iterator[str]:
    """TPOT at batch 1 after contexts of different lengths; nothing where the sizes share none."""
    contexts = [n for n in speeds[0].context_tpot_ms if all(n in speed.context_tpot_ms for speed in speeds)]
    if not contexts:
        return
    yield f"| size | {' | '.join(f'TPOT after {n}' for n in contexts)} | flat to {FLAT:.0%} |"
    yield "| --- |" + " --- |" * (len(contexts) + 1)
    for speed in speeds:
        times = [speed.context_tpot_ms[n] for n in contexts]
        spread = max(times) / min(times) - 1
        verdict = f"{spread:.1%}: {'met' if spread <= FLAT else 'short'}"
        columns = " | ".join(f"{ms:.4f}" for ms in times)
        yield f"| {speed.size}, {speed.numbers} | {columns} | {verdict} |"


def main(
    ours: Annotated[Path, typer.Argument(help="Lines of exporter/tensorrt/speed.py.")],
    theirs: Annotated[Path, typer.Argument(help="Lines of another engine's.")],
) -> None:
    """Print the tables."""
    pairs = compared(read_speeds(ours), read_speeds(theirs))
    tables = [
        "\n".join(times_table(pairs)),
        "\n".join(bytes_table([speed for pair in pairs for speed in pair])),
        "\n".join(context_table([speed for speed, _ in pairs])),
    ]
    print("\n\n".join(filter(None, tables)))


if __name__ == "__main__":
    leave_with_code(lambda: typer.run(main))
