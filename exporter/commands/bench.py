"""`quamba-export bench`: how fast a bundle reads and writes tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import CalibrationPath, Json, ProviderOption
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.output_path import check_writable

if TYPE_CHECKING:
    from rich.console import Console

    from quamba_export.exporter.speed.bench_result import Benchmark, Comparison

HEADS = ("p50", "p90", "p99", "tokens/s", "J/token")  # a row for each time: a terminal has 80 columns


def bench(
    path: Annotated[Path | None, typer.Argument(help="A bundle/ or export/ directory.")] = None,
    against: Annotated[
        str | None, typer.Option(help="Its checkpoint: times PyTorch and transformers in the same run.")
    ] = None,
    calibration: CalibrationPath = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of everyone.")] = 2,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens written after it.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds; one more warms up.")] = 5,
    provider: ProviderOption = None,
    bandwidth: Annotated[
        float | None, typer.Option(min=0.1, help="GB/s of the model's memory; the target's if left out.")
    ] = None,
    to_markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Also write the result as a table.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="OLD NEW", help="Measure nothing: compare two files that --json printed."),
    ] = None,
    allow: Annotated[str, typer.Option(help="With --compare: how much larger a figure may be.")] = "5%",
    as_json: Json = False,
) -> None:
    """Time prefill and decode at batch 1; with --against also of PyTorch and transformers.

    Percentiles of TTFT, TPOT and TTLT (to the last token), peak memory, joules a token where power rails or
    the GPU's driver measure them. --compare exits with 9 where a median is larger than allowed.

    Example: quamba-export bench bundle/ --against CHECKPOINT --calibration calibration/
    """
    if (path is None) == (compare is None):
        raise QuambaError(
            "bench measures, or compares",
            found="a directory and --compare" if path else "neither",
            allowed="bench bundle/, or bench --compare OLD.json NEW.json",
            code=ExitCode.USAGE,
        )
    if compare is not None:
        from quamba_export.exporter.speed.bench_result import compare_runs, require_no_worse

        comparison = compare_runs(*compare, share(allow))
        emit(comparison, as_json, lambda console: show_changes(comparison, console))
        return require_no_worse(comparison)
    if to_markdown is not None:
        check_writable(to_markdown)
    from quamba_export.exporter.speed.bench import bench_bundle
    from quamba_export.exporter.speed.bench_result import markdown

    result = bench_bundle(
        cast(Path, path),
        against=against,
        calibration=calibration,
        threads=threads,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        rounds=rounds,
        provider=provider,
        bandwidth=bandwidth,
    )
    if to_markdown is not None:
        to_markdown.write_text(markdown(result), encoding="utf-8")
    return emit(result, as_json, lambda console: show(result, console))


def share(text: str) -> float:
    """0.05 of "5%" or "0.05". Raises QuambaError (exit 2)."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        value = -1.0
    share_of_itself = number == text.strip()
    if not 0 <= value <= (1 if share_of_itself else 10):
        raise QuambaError(
            "--allow is a share",
            found=text,
            allowed="5%, up to 1000%, or 0.05, up to 1",
            fix=f"did you mean {number}%?" if share_of_itself and 1 < value <= 1000 else "",
            code=ExitCode.USAGE,
        )
    return value


def show_changes(comparison: Comparison, console: Console) -> None:
    from rich.table import Table

    table = Table("", "", "old", "new", "change", title=f"{comparison.old} -> {comparison.new}")
    for change in comparison.changes:
        style = "red" if change.worse else None
        row = (
            change.name,
            change.figure,
            f"{change.old:.3f}",
            f"{change.new:.3f}",
            f"{change.ratio - 1:+.1%}",
        )
        table.add_row(*row, style=style)
    console.print(table)
    for figure in comparison.not_compared:
        console.print(f"not compared: {figure}")


def show(result: Benchmark, console: Console) -> None:
    from rich.table import Table

    from quamba_export.exporter.speed.bench_result import TIMES, facts

    table = Table("", "ms", *HEADS, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for speed in result.speeds:
        joules = "-" if speed.joules_per_token is None else f"{speed.joules_per_token:.3f}"
        rates = {
            "ttft": (f"{speed.prefill_tokens_per_second:.0f}", ""),
            "tpot": (f"{speed.decode_tokens_per_second:.1f}", joules),
        }
        for name in TIMES:
            times = getattr(speed, name)
            percentiles = (f"{value:.2f}" for value in (times.p50, times.p90, times.p99))
            first = speed.name if name == TIMES[0] else ""
            table.add_row(first, name.upper(), *percentiles, *rates.get(name, ()))
    console.print(table)
    for line in facts(result):
        console.print(line, highlight=False, markup=False)
    for placement in result.placements:
        ops = ", ".join(f"{count} {op}" for op, count in placement.ops.items())
        console.print(f"{placement.provider}: {placement.nodes} nodes of a decode step ({ops})")
