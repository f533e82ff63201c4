"""`run --prompts`: many prompts from a file to a file, with a bar, and what it cost at the end."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from quamba_export.exporter.console import emit, progress, say

if TYPE_CHECKING:
    from quamba_export.runtime.bundle import Bundle
    from quamba_export.runtime.generate import Limits
    from quamba_export.runtime.sampling import Sampling


def continue_file(
    opened: Bundle,
    prompts: Path,
    out: Path,
    limits: Limits,
    sampling: Sampling,
    max_batch: int | None,
    *,
    as_json: bool,
) -> None:
    """Continue every prompt of a file; what an earlier run of the same command has done is kept."""
    from quamba_export.runtime.batch_file import ResultFile, read_prompts, run_batch
    from quamba_export.runtime.serve.places import places_for

    texts = read_prompts(prompts)
    settings = {**asdict(sampling), **asdict(limits), "model": opened.manifest.export_digest}
    with (
        ResultFile(out, json.loads(json.dumps(settings)), texts) as results,
        progress("prompts", len(texts), "prompts") as bar,
    ):
        kept, started = len(results.done), time.perf_counter()
        run_batch(
            opened,
            texts,
            results,
            limits,
            sampling,
            max_batch=places_for(opened.manifest, max_batch),
            advance=lambda done: bar.show(done, len(texts)),
        )
        seconds = time.perf_counter() - started
        new = sum(results.done[index]["new_tokens"] for index in list(results.done)[kept:])
        results.finish()
    result = {"prompts": len(texts), "kept": kept, "out": str(out), "new_tokens": new, "seconds": seconds}
    result |= {"tokens_per_second": new / seconds, "peak_memory_mb": peak_memory_mb()}
    line = f"{len(texts)} prompts ({kept} from before) in {out}, {new} new tokens in {seconds:.1f} s, "
    line += f"{new / seconds:.1f} tokens/s, peak memory {result['peak_memory_mb']:.0f} MB"
    emit(result, as_json, lambda _: say(line))


def peak_memory_mb() -> float:
    """The most memory that this process has had, in MB; none of a GPU."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
