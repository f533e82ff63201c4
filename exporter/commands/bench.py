"""`quamba-export bench`: how fast a bundle reads and writes tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import CalibrationPath, Json, ProviderOption

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.bench import Benchmark


def bench(
    path: Annotated[Path, typer.Argument(help="A bundle/ or export/ directory.")],
    against: Annotated[
        str | None, typer.Option(help="Its checkpoint: times PyTorch and transformers in the same run.")
    ] = None,
    calibration: CalibrationPath = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of everyone.")] = 2,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens written after it.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds; one more warms up.")] = 5,
    provider: ProviderOption = None,
    as_json: Json = False,
) -> None:
    """Time prefill and decode at batch 1; with --against also of PyTorch and transformers.

    With --provider cuda it also counts the nodes that ONNX Runtime left on the CPU.

    Example: quamba-export bench bundle/ --against CHECKPOINT --calibration calibration/
    """
    from quamba_export.exporter.bench import bench_bundle

    result = bench_bundle(
        path,
        against=against,
        calibration=calibration,
        threads=threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rounds=rounds,
        provider=provider,
    )
    emit(result, as_json, lambda console: show(result, console))


def show(result: Benchmark, console: Console) -> None:
    from rich.table import Table

    size = f"prompt {result.prompt_tokens}, {result.new_tokens} new tokens, {result.threads} threads"
    table = Table(
        "", "TTFT ms", "prefill tokens/s", "TPOT ms", "decode tokens/s", title=f"{result.path}: {size}"
    )
    for speed in result.speeds:
        figures = (
            f"{speed.ttft_ms:.1f}",
            f"{speed.prefill_tokens_per_second:.0f}",
            f"{speed.tpot_ms:.2f}",
            f"{speed.decode_tokens_per_second:.1f}",
        )
        table.add_row(speed.name, *figures)
    console.print(table)
    console.print(f"medians of {result.rounds} rounds on {result.cpu}")
    for placement in result.placements:
        ops = ", ".join(f"{count} {op}" for op, count in placement.ops.items())
        console.print(f"{placement.provider}: {placement.nodes} nodes of a decode step ({ops})")
