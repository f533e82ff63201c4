"""Time of the end of a step: final norm and head, then the likeliest token, us a call in a CUDA graph.

    python -m tests.gpu.measure_head [--size mamba2-2.7b] [--batch 1 8 64]

Needs QUAMBA_PLUGINS as `make gpu-test` sets it. Rotates over weights that no cache holds; TB/s counts the
weight once for every call.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from op_cases import head

from quamba_export.calib.config import MambaConfig
from quamba_export.exporter.speed.random_models import CONFIGS
from tests.gpu.kernel_library import KernelLibrary, Prepared
from tests.gpu.measure import graph_microseconds

LAUNCHES, COPIES = 24, 4


class Argmax:
    """One call on logits of a head."""

    def __init__(self, library: KernelLibrary, batch: int, vocabulary: int) -> None:
        self.library, self.logits = library, torch.randn((batch, vocabulary), device="cuda")

    def launch(self) -> None:
        self.library.argmax(self.logits)


def heads(library: KernelLibrary, config: MambaConfig, batch: int) -> list[Prepared]:
    """Calls of the head with one token a sequence."""
    sizes = {"B": batch, "L": 1, "D": config.d_model, "V": config.vocab_size}
    case = head.case_of("m", sizes)
    return [library.prepare(case) for _ in range(COPIES)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", nargs="*", default=sorted(CONFIGS))
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 2, 4, 8, 64])
    arguments = parser.parse_args()
    library = KernelLibrary(Path(os.environ["QUAMBA_PLUGINS"]))
    for size in arguments.size:
        config = CONFIGS[size]
        V, weight_bytes = config.vocab_size, 2 * config.vocab_size * config.d_model
        for batch in arguments.batch:
            calls = heads(library, config, batch)
            time = graph_microseconds([calls[i % COPIES] for i in range(LAUNCHES)]) / LAUNCHES
            choices = [Argmax(library, batch, V) for _ in range(COPIES)]
            choice = graph_microseconds([choices[i % COPIES] for i in range(LAUNCHES)]) / LAUNCHES
            rate = weight_bytes / time / 1e6
            print(
                f"{size} B={batch}: head {time:.2f} us ({rate:.2f} TB/s), argmax {choice:.2f} us", flush=True
            )


if __name__ == "__main__":
    main()
