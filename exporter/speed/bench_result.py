"""What `bench` found: as JSON, as Markdown, and one run beside another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.ort_placement import Placement

SETTINGS = ("cpu", "gpu", "threads", "prompt_tokens", "new_tokens")  # two runs differ in none of them
TIMES = ("ttft", "tpot", "ttlt")


@dataclass(frozen=True)
class Spread:
    """Times of one thing, ms."""

    p50: float
    p90: float
    p99: float
    samples: list[float]  # in the order measured


def spread(seconds: Sequence[float]) -> Spread:
    """Percentiles, between two samples linear."""
    samples = [1e3 * value for value in seconds]
    p50, p90, p99 = np.percentile(samples, (50, 90, 99)).tolist()
    return Spread(p50, p90, p99, samples)


@dataclass(frozen=True)
class Speed:
    """One contestant at batch 1. The first four figures are medians over the rounds."""

    name: str
    ttft_ms: float
    tpot_ms: float  # of a round: its decode time by the number of tokens
    prefill_tokens_per_second: float
    decode_tokens_per_second: float
    ttft: Spread  # a sample a round: the prompt
    tpot: Spread  # a sample a token
    ttlt: Spread  # a sample a round: prompt and all new tokens
    joules_per_token: float | None  # while decoding, idle power included; None where nothing measures it


@dataclass(frozen=True)
class ByteFloor:
    """The time in which memory delivers what a token needs: what TPOT cannot be below."""

    weight_bytes: int
    state_bytes: int  # read and written
    gb_per_s: float
    tpot_ms: float
    share: float  # of the measured median: 1 where nothing but the bytes takes time


@dataclass(frozen=True)
class Benchmark:
    """The `--json` object of `bench`."""

    path: str
    cpu: str
    gpu: str  # "" where the model runs on the CPU
    threads: int
    prompt_tokens: int
    new_tokens: int
    rounds: int
    speeds: list[Speed]
    left_out: str  # who did not take part and why, "" for nobody
    placements: list[Placement]  # with provider cuda: where the nodes of a decode step ran
    energy: str  # what measured it, "" for nothing
    host_peak_bytes: int | None  # of this process; None where other models are in it
    device_bytes: int | None  # of GPU memory, that this bundle took
    byte_floor: ByteFloor | None  # None where the bandwidth is not known


def markdown(result: Benchmark) -> str:
    """A table for a page, and what it was measured with."""
    head = (
        "",
        "TTFT p50 / p90 / p99 ms",
        "TPOT p50 / p90 / p99 ms",
        "TTLT p50 / p90 / p99 ms",
        "tokens/s",
        "J/token",
    )
    rows = [head, ("---",) * len(head)]
    for speed in result.speeds:
        times = (getattr(speed, name) for name in TIMES)
        joules = "-" if speed.joules_per_token is None else f"{speed.joules_per_token:.4f}"
        rows.append((speed.name, *map(percentiles, times), f"{speed.decode_tokens_per_second:.1f}", joules))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {line}" for line in facts(result)), ""])


def percentiles(times: Spread) -> str:
    return f"{times.p50:.2f} / {times.p90:.2f} / {times.p99:.2f}"


def facts(result: Benchmark) -> list[str]:
    """How it was measured, and what a table has no column for; a line each."""
    where = f"{result.cpu}, {result.threads} threads" if not result.gpu else f"{result.gpu}, {result.cpu}"
    lines = [
        f"`{result.path}`, prompt {result.prompt_tokens}, {result.new_tokens} new tokens, batch 1, "
        f"{result.rounds} rounds, on {where}"
    ]
    if result.left_out:
        lines.append(f"left out: {result.left_out}")
    if result.host_peak_bytes is not None:
        lines.append(f"peak memory of the process: {result.host_peak_bytes / 2**20:.0f} MiB")
    if result.device_bytes is not None:
        lines.append(f"GPU memory taken: {result.device_bytes / 2**20:.0f} MiB")
    if floor := result.byte_floor:
        lines.append(
            f"byte floor of TPOT: {floor.tpot_ms:.3f} ms at {floor.gb_per_s:g} GB/s, "
            f"{floor.share:.0%} of the measured median"
        )
    lines.append(f"energy: {result.energy}" if result.energy else "energy: nothing here measures it")
    return lines


@dataclass(frozen=True)
class Change:
    """One figure of one contestant in two runs."""

    name: str
    figure: str
    old: float
    new: float
    worse: bool  # by more than is allowed

    @property
    def ratio(self) -> float:
        return self.new / self.old


@dataclass(frozen=True)
class Comparison:
    """The `--json` object of `bench --compare`."""

    old: str
    new: str
    allowed: float  # share by which a figure may be larger
    changes: list[Change]
    not_compared: list[str]  # figures that only one of the two runs has

    @property
    def worse(self) -> list[Change]:
        return [change for change in self.changes if change.worse]


def compare_runs(old: Path, new: Path, allowed: float) -> Comparison:
    """Medians of TTFT, TPOT and TTLT, and joules a token where both have them, of who is in both runs.

    Raises QuambaError (exit 3) for a file that is no result, and for runs that were not made alike.
    """
    first, second = read_result(old), read_result(new)
    for key in SETTINGS:
        if first[key] != second[key]:
            raise QuambaError(
                f"{old} and {new} cannot be compared",
                found=f"'{key}' is {second[key]!r}",
                allowed=f"{first[key]!r}, as in the older run",
                fix="run both with the same options on one machine",
            )
    both = [
        (one, other) for one in first["speeds"] for other in second["speeds"] if one["name"] == other["name"]
    ]
    if not both:
        raise QuambaError(
            f"{old} and {new} have nobody in common", found="other names", allowed="one in both"
        )
    changes = []
    for one, other in both:
        for figure, before in figures(one).items():
            after = figures(other).get(figure)
            if after is not None:
                changes.append(Change(one["name"], figure, before, after, after > before * (1 + allowed)))
    return Comparison(str(old), str(new), allowed, changes, only_in_one(first, second))


def only_in_one(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The figures that cannot be compared, in words: a run that lost one is no faster for it."""
    first, second = (
        {f"{speed['name']} {figure}" for speed in run["speeds"] for figure in figures(speed)}
        for run in (old, new)
    )
    return [
        f"{figure}: only in the {'older' if figure in first else 'newer'} run"
        for figure in sorted(first ^ second)
    ]


def figures(speed: Mapping[str, Any]) -> dict[str, float]:
    """What is compared, by name: less is better."""
    found = {f"{name} p50 ms": float(speed[name]["p50"]) for name in TIMES}
    if speed["joules_per_token"] is not None:
        found["joules a token"] = float(speed["joules_per_token"])
    return found


def read_result(path: Path) -> dict[str, Any]:
    """The JSON object that `bench --json` printed. Raises QuambaError (exit 3)."""
    try:
        result: dict[str, Any] = json.loads(path.read_bytes())
        {key: result[key] for key in SETTINGS}
        if not all(
            value > 0
            for speed in result["speeds"]
            for value in (*figures(speed).values(), speed["name"] != "")
        ):
            raise ValueError("a time that is not above 0")
    except (OSError, ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise QuambaError(
            f"{path} is no result of bench",
            found=(isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}",
            allowed="what `quamba-export bench --json` of this release prints",
            fix="quamba-export bench bundle/ --json > result.json",
        ) from error
    return result


def require_no_worse(comparison: Comparison) -> None:
    """Raise QuambaError (exit 9) where a figure is worse than allowed."""
    if worse := comparison.worse:
        raise QuambaError(
            f"{comparison.new} is slower than {comparison.old}",
            found=", ".join(f"{c.name} {c.figure} {c.ratio - 1:+.1%}" for c in worse),
            allowed=f"at most {comparison.allowed:+.1%}",
            fix="run both again on an idle machine, with more --rounds",
            code=ExitCode.NUMERIC,
        )
