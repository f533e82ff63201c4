"""Runs -> one HTML page that needs no network; the templates and the style stand beside this file."""

from __future__ import annotations

from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from quamba_export.exporter.console import to_jsonable
from quamba_export.exporter.inspection.model_columns import model_columns
from quamba_export.exporter.report.charts import megabytes
from quamba_export.exporter.report.data import CLOSE, Run
from quamba_export.exporter.report.views import headline, pair_views, percent, view_of
from quamba_export.runtime.output_path import check_outside
from quamba_export.runtime.whole_file import whole_file

if TYPE_CHECKING:
    from quamba_export.exporter.comparison.models import Comparison

FOLDER = Path(__file__).parent


def write_report(runs: list[Run], out: Path) -> Path:
    """One page for all runs."""
    return write_page("report.html", out, runs=[view_of(run) for run in runs], headline=headline(runs))


def write_comparison_page(comparison: Comparison, out: Path) -> Path:
    """The comparison of one model as a page of its own."""
    facts = to_jsonable(comparison)
    values = {"comparison": facts, "pairs": pair_views(facts), "columns": model_columns(facts)}
    return write_page("comparison.html", out, **values)


def write_page(template: str, out: Path, **values: Any) -> Path:
    """Render a template of this folder to `out`, in one step. Raises QuambaError (exit 2) in a bundle."""
    check_outside(out)
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"percent": percent, "megabytes": megabytes}
    style = Markup((FOLDER / "report.css").read_text(encoding="utf-8"))
    footer = f"quamba-export {version('quamba-export')}, {date.today().isoformat()}"
    page = environment.get_template(template).render(style=style, footer=footer, close=CLOSE, **values)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as file:
        file.write(page.encode())
    return out
