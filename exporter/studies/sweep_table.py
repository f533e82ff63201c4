"""What a sweep found, as rows: for the terminal, as Markdown, as a page with a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from quamba_export.exporter.report.charts import dots
from quamba_export.exporter.report.report import write_page

Rows = list[list[str]]


def sweep_rows(
    fields: Sequence[str], results: Sequence[dict[str, Any]], study_columns: bool
) -> tuple[list[str], Rows]:
    """Heads and rows of the table: the fields, then of each mode what was scored.

    study_columns: whether the scan's input is shown too.
    """
    modes = [mode for mode in ("prefill", "decode") if mode in results[0]["scores"]]
    heads = list(fields)
    for mode in modes:
        heads += [f"{mode}: perplexity", "ratio", "KL", "top-1"]
        heads += ["last words"] if "cloze_accuracy" in results[0]["scores"][mode] else []
    heads += [f"{task}: {metric}" for task, metric in task_columns(results[0]["scores"])]
    heads += ["outliers", "became 0", "bytes a token"] if study_columns else []
    return heads, [_row(fields, result, modes, study_columns) for result in results]


def _row(
    fields: Sequence[str], result: dict[str, Any], modes: Sequence[str], study_columns: bool
) -> list[str]:
    cells, scores = [str(result["values"].get(field, "-")) for field in fields], result["scores"]
    for mode in modes:
        facts = scores[mode]
        cells += [f"{facts['perplexity']:.4f}", f"{facts['ratio']:.4f}", f"{facts['kl']:.5f}"]
        cells += [f"{facts['top1_agreement']:.2%}"]
        cells += [f"{facts['cloze_accuracy']:.1%}"] if "cloze_accuracy" in facts else []
    cells += [f"{scores['tasks'][task][metric]:.4f}" for task, metric in task_columns(scores)]
    if study_columns:
        cells += [
            f"{scores['outlier_share']:.2g}" if "outlier_share" in scores else "-",
            f"{scores['zeroed_outlier_share']:.2g}" if "zeroed_outlier_share" in scores else "-",
            f"{scores['scan_input_bytes_a_token']:.0f}" if "scan_input_bytes_a_token" in scores else "-",
        ]
    return cells


def task_columns(scores: dict[str, Any]) -> list[tuple[str, str]]:
    """Task and metric of every score of lm-eval; standard errors stay in the JSON."""
    found = scores.get("tasks", {})
    return [(task, key) for task, row in found.items() for key in row if not key.endswith("_stderr")]


def markdown(heads: Sequence[str], rows: Rows) -> str:
    """The table for a document."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_sweep_page(facts: dict[str, Any], heads: list[str], rows: Rows, out: Path) -> Path:
    """The table, and KL and every score of a task by variant as plots; needs no network."""
    variants = facts["variants"]
    mode = "decode" if "decode" in variants[0]["scores"] else "prefill"
    names = [", ".join(result["values"].values()) or "default" for result in variants]

    def plot(title: str, values: Sequence[float], logarithmic: bool) -> Markup:
        return Markup(dots(list(zip(names, values, strict=True)), title, logarithmic))

    kl = plot(f"KL from float in {mode}", [result["scores"][mode]["kl"] for result in variants], True)
    of_tasks = {
        f"{task}: {metric}": [result["scores"]["tasks"][task][metric] for result in variants]
        for task, metric in task_columns(variants[0]["scores"])
    }
    plots = [(title, plot(title, values, False)) for title, values in of_tasks.items()]
    return write_page(
        "sweep.html", out, facts=facts, heads=heads, rows=rows, plot=kl, task_plots=plots, mode=mode
    )
