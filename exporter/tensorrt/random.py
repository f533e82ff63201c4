"""Engines of published sizes with random weights, on the GPU of this machine: TTFT, TPOT, sizes, same bits.

    python -m quamba_export.exporter.tensorrt.random mamba2-2.7b mamba2-8b:2 --plugins libquamba_plugins.so

A size is a name of exporter/model_sizes.py, `:2` behind it keeps two layers. Models whose run on the CPU is
short (--compare-below, in millions of weights) are also compared with ONNX Runtime. Exit 9 where they differ.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.exporter.cli import leave_with_code
from quamba_export.exporter.graph.onnx_export import write_model
from quamba_export.exporter.speed.random_models import random_model
from quamba_export.exporter.tensorrt.build import BuildOptions
from quamba_export.exporter.tensorrt.check import CHUNK, PROMPT, STEPS, Report, built_engine, show_times
from quamba_export.exporter.tensorrt.speed import states_of
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode


def main(
    sizes: Annotated[list[str], typer.Argument(help="Names of exporter/model_sizes.py, `:N` for N layers.")],
    plugins: Annotated[Path, typer.Option(help="libquamba_plugins.so.")],
    qformat: Annotated[str, typer.Option(help="w8a8, w4a8, w4a16 or w8a16.")] = "w8a8",
    compare_below: Annotated[int, typer.Option(help="Millions of weights up to which to compare.")] = 200,
) -> None:
    """Draw, build, time, compare."""
    report = Report()
    for size in sizes:
        name, _, layers = size.partition(":")
        print(size, flush=True)
        model = random_model(name, n_layer=int(layers) if layers else None, qformat=qformat)
        measure(model, plugins, compare_below, report)
    if report.failures:
        raise typer.Exit(ExitCode.NUMERIC)


def measure(model: QuantizedModel, plugins: Path, compare_below: int, report: Report) -> None:
    """One model through export, build and both engines; nothing stays on the disk."""
    config = model.config
    states = states_of(model)
    millions = sum(t.numel() for name, t in model.tensors.items() if name.startswith("layers.")) // 10**6
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(model, folder)
        engine = built_engine(folder, states, config.vocab_size, BuildOptions(plugins), 1)
        ids = np.random.default_rng(0).integers(0, config.vocab_size, (1, CHUNK))
        show_times(engine, ids[0])
        if millions < compare_below:
            reference = OrtEngine(folder / "model.onnx", states, config.vocab_size)
            report.compare(engine, reference, ids[:, : PROMPT + STEPS])


if __name__ == "__main__":
    leave_with_code(lambda: typer.run(main))
