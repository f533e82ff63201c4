"""Speed and memory of TensorRT engines of published sizes with random weights: a JSON line a model.

    python -m quamba_export.exporter.tensorrt.speed mamba2-2.7b mamba-130m --qformat w4a8 \\
        --plugins libquamba_plugins.so --output ours.jsonl

A size is a name of exporter/model_sizes.py, `:2` behind it keeps two layers. Two pairs of engines are built
of each: one for a single sequence (TTFT, TPOT, TPOT after long contexts) and one for several. Both prefill
512 tokens a call in all, so that memory grows with the states of the batch and not with longer calls. Memory
is what the loaded engines, weights and states take of the GPU, without CUDA's context.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.exporter.cli import leave_with_code
from quamba_export.exporter.graph.onnx_export import state_table, write_model
from quamba_export.exporter.speed.gpu_speed import (
    BATCHES,
    MIB,
    PROMPTS,
    TPOT_RUNS,
    TTFT_RUNS,
    GpuSpeed,
    append_speed,
    copy_gb_per_s,
    milliseconds,
)
from quamba_export.exporter.speed.random_models import random_model
from quamba_export.exporter.tensorrt.build import BuildOptions, engines_from_export, profiles_for
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine import CHUNK, Engine, Ids, Logits, prefill
from quamba_export.runtime.engine_tensorrt import load_engine
from quamba_export.runtime.manifest import StateTensor
from quamba_export.runtime.tensorrt_library import import_tensorrt

CONTEXTS = [512, 4096, 32768]
COPY_BYTES = 2 << 30


def main(
    sizes: Annotated[list[str], typer.Argument(help="Names of exporter/model_sizes.py, `:N` for N layers.")],
    plugins: Annotated[Path, typer.Option(help="libquamba_plugins.so.")],
    context: Annotated[
        list[int], typer.Option(min=1, help="Tokens to time TPOT after; repeatable.")
    ] = CONTEXTS,
    qformat: Annotated[str, typer.Option(help="w8a8, w4a8, w4a16 or w8a16.")] = "w8a8",
    output: Annotated[Path | None, typer.Option(help="File to add the lines to.")] = None,
) -> None:
    """Draw, build, time."""
    for size in sizes:
        name, _, layers = size.partition(":")
        model = random_model(name, n_layer=int(layers) if layers else None, qformat=qformat)
        append_speed(output, measure(model, size, BuildOptions(plugins), context))


def measure(model: QuantizedModel, size: str, options: BuildOptions, contexts: list[int]) -> GpuSpeed:
    """One model through export, builds and runs; nothing stays on the disk."""
    ttft, tpot, after, peak = dict[str, float](), dict[str, float](), dict[str, float](), dict[str, float]()
    states, cuda = states_of(model), Cuda()
    with tempfile.TemporaryDirectory() as export, tempfile.TemporaryDirectory() as folder:
        write_model(model, Path(export))
        for batches in BATCHES[:1], BATCHES[1:]:
            profiles = profiles_for(max(batches), CHUNK // max(batches))
            record = engines_from_export(Path(export), Path(folder), profiles, options)
            gc.collect()  # nothing of the last pair may be given back while this one is measured
            free, _ = cuda.memory()
            engine = load_engine(Path(folder).joinpath, record, states, model.config.vocab_size, Cuda())
            if 1 in batches:
                ttft = {str(length): first_token_ms(engine, length) for length in PROMPTS}
                after = {str(length): next_token_ms(engine, 1, length) for length in contexts}
            tpot |= {str(batch): next_token_ms(engine, batch, PROMPTS[0]) for batch in batches}
            peak[str(max(batches))] = (free - cuda.memory()[0]) / MIB
            del engine
    return GpuSpeed(
        engine=f"quamba-export, TensorRT {import_tensorrt().__version__}",
        size=size,
        numbers=model.qformat,
        gpu=cuda.name,
        gb_per_s=device_gb_per_s(cuda),
        weight_bytes=sum(t.nbytes for name, t in model.tensors.items() if name != "embedding.weight"),
        state_bytes=sum(state.nbytes for state in states),
        ttft_ms=ttft,
        tpot_ms=tpot,
        context_tpot_ms=after,
        free_running_tpot_ms={},
        peak_mib=peak,
    )


def states_of(model: QuantizedModel) -> tuple[StateTensor, ...]:
    """The states that the manifest of this model's export names."""
    rows = state_table(model)
    return tuple(StateTensor(r["past"], r["present"], r["dtype"], tuple(r["shape"])) for r in rows)


def first_token_ms(engine: Engine, length: int) -> float:
    """TTFT of one prompt of `length` tokens; its states begin at zero in every run."""
    prompt = random_ids(engine, 1, length)

    def first_token() -> Ids:
        logits, _ = prefill(engine, prompt)
        return greedy(logits)

    return milliseconds(first_token, TTFT_RUNS)


def next_token_ms(engine: Engine, batch: int, context: int) -> float:
    """TPOT of `batch` sequences that have read `context` tokens; every token is the last one's likeliest."""
    logits, states = prefill(engine, random_ids(engine, batch, context))
    tokens = greedy(logits)[:, 0]

    def next_token() -> None:
        nonlocal tokens, states
        tokens, states = engine.next_tokens(tokens[:, None], states)

    return milliseconds(next_token, TPOT_RUNS)


def greedy(logits: Logits) -> Ids:
    """The likeliest tokens (B, 1) of logits (B, 1, V)."""
    tokens: Ids = logits.argmax(-1)
    return tokens


def random_ids(engine: Engine, batch: int, length: int) -> Ids:
    return np.random.default_rng(length).integers(0, engine.vocab_size, (batch, length))


def device_gb_per_s(cuda: Cuda) -> float:
    """Bandwidth of this GPU's memory, in a copy far beyond its L2."""
    source, target = cuda.allocate(COPY_BYTES), cuda.allocate(COPY_BYTES)

    def copy() -> None:
        cuda.copy(target.address, source.address, COPY_BYTES)
        cuda.synchronize()

    return copy_gb_per_s(copy, COPY_BYTES)


if __name__ == "__main__":
    leave_with_code(lambda: typer.run(main))
