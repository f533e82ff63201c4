"""What a GPU speed run measures, as one JSON line a model: the same columns for these engines and for others.

TTFT: from the prompt's ids in host memory to the first greedy token there, states begun anew. TPOT: from one
greedy token in host memory to the next, in steady state. Both are medians of wall times, in ms.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from quamba_export.runtime.errors import QuambaError

PROMPTS = (512, 2048)  # tokens, TTFT
BATCHES = (1, 8, 64)  # sequences, TPOT
WARM_UP, TTFT_RUNS, TPOT_RUNS = 5, 20, 200
MIB = 1 << 20


@dataclass(frozen=True)
class GpuSpeed:
    """One model on one GPU. The keys of the tables are numbers in words, as JSON has them."""

    engine: str  # what ran it and in which version
    size: str  # a name of exporter/model_sizes.py
    numbers: str  # "w8a8", "w4a8", "fp16"
    gpu: str
    gb_per_s: float  # a copy on this GPU in this run, bytes read plus bytes written
    weight_bytes: int  # that a token reads: all weights and the head, not the embedding's other rows
    state_bytes: int  # of one sequence; a token reads and writes them
    ttft_ms: Mapping[str, float]  # by tokens of the prompt, batch 1
    tpot_ms: Mapping[str, float]  # by batch
    context_tpot_ms: Mapping[str, float]  # by tokens before it, batch 1
    free_running_tpot_ms: Mapping[str, float]  # by batch, tokens left on the GPU; empty where not measured
    peak_mib: Mapping[str, float]  # by batch: GPU memory of weights, states and working memory

    def floor_ms(self, batch: int) -> float:
        """Time in which the memory of this GPU delivers what a token of each of `batch` sequences needs."""
        return (self.weight_bytes + 2 * batch * self.state_bytes) / (1e6 * self.gb_per_s)

    def floor_share(self, batch: int) -> float:
        """How much of the measured TPOT the bytes account for: 1 where nothing else takes time."""
        return self.floor_ms(batch) / self.tpot_ms[str(batch)]


def milliseconds(call: Callable[[], object], runs: int) -> float:
    """Median wall time of `call`, which returns when its result is in host memory, after WARM_UP calls."""
    seconds = []
    for _ in range(WARM_UP + runs):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return 1e3 * median(seconds[WARM_UP:])


def copy_gb_per_s(copy: Callable[[], object], nbytes: int) -> float:
    """Bandwidth of `copy`, which moves nbytes from one place on the GPU to another and waits: GB/s."""
    return 2 * nbytes / milliseconds(copy, 10) / 1e6


def append_speed(path: Path | None, speed: GpuSpeed) -> None:
    """Print a line of JSON, and add it to the file where one is named: what is measured is not lost."""
    line = json.dumps(asdict(speed), allow_nan=False)
    print(line, flush=True)
    if path is not None:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def read_speeds(path: Path) -> list[GpuSpeed]:
    """The lines of such a file. Raises QuambaError (exit 3) naming the first that is none."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_speed(line, f"line {number} of {path}") for number, line in enumerate(lines, 1)]


def _speed(line: str, where: str) -> GpuSpeed:
    try:
        return GpuSpeed(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise QuambaError(
            f"{where} is no measured speed",
            found=str(error),
            allowed=f"a JSON object of {', '.join(field.name for field in fields(GpuSpeed))}",
            fix="python -m quamba_export.exporter.tensorrt.speed",
        ) from error
