"""`quamba-export inspect`: facts about a checkpoint or an artefact."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.console import Console


def inspect(
    path: Annotated[
        str, typer.Argument(help="A checkpoint (directory or hub id), calibration/, export/ or bundle/.")
    ],
    layer: Annotated[int, typer.Option(min=0, help="The layer whose scale table is shown.")] = 0,
    html: Annotated[
        Path | None, typer.Option(help="Of a calibration/, also write the errors of its scales as a page.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what PATH holds: sizes, weights, states, scales and where they came from.

    Example: quamba-export inspect calibration/ --layer 3
    """
    from quamba_export.exporter.inspection.inspect import inspect_path

    facts = inspect_path(path, layer)
    if html is not None:
        if facts.kind != "calibration":
            raise QuambaError(
                "only scales are drawn",
                found=f"--html for a {facts.kind}",
                allowed="a calibration/",
                code=ExitCode.USAGE,
            )
        from quamba_export.exporter.report.scale_page import write_scale_page

        write_scale_page(facts, html)
    emit(facts, as_json, lambda console: show(asdict(facts), console))


def show(facts: dict[str, Any], console: Console) -> None:
    """Scalars as lines, objects as indented lines, lists of records as tables; scales of one layer only."""
    if facts["kind"] == "calibration":
        facts = of_one_layer(facts)
    for key, value in facts.items():
        if isinstance(value, dict) and not is_infinity(value):
            console.print(f"[bold]{key}[/]")
            width = max(20, *map(len, value))
            for name, item in value.items():
                console.print(
                    f"  {name:<{width}} {plain(item)}", highlight=False, markup=False, soft_wrap=True
                )
        elif isinstance(value, list) and value:
            show_records(key, value, console)
        elif value not in ([], ""):
            console.print(f"[bold]{key}[/] {value}", highlight=False, soft_wrap=True)


def show_records(title: str, records: list[dict[str, Any]], console: Console) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in records[0]:
        table.add_column(name, overflow="fold")
    for record in records:
        table.add_row(*map(plain, record.values()))
    console.print("", table, "", highlight=False)


def of_one_layer(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts of a calibration/ with one row a site: of the layer that was asked for, and the worst of all."""
    errors = {error["site"]: error for error in facts["errors"]}
    rows = {scale["site"]: site_row(scale, errors[scale["site"]]) for scale in facts["sites"]}
    known = [row for row in rows.values() if row["SNR dB"] is not None]
    layer = facts["layer"]
    shown = {name: value for name, value in facts.items() if name not in ("sites", "errors")}
    prefix = f"layers.{layer}."
    shown[f"sites of layer {layer}"] = [
        row | {"site": site.removeprefix(prefix)} for site, row in rows.items() if site.startswith(prefix)
    ]
    shown["the lowest SNR of all layers"] = sorted(known, key=lambda row: float(row["SNR dB"]))[:5]
    return shown | {"more": "--layer N, another layer; --json or --html FILE, all of them"}


def site_row(scale: dict[str, Any], error: dict[str, Any]) -> dict[str, Any]:
    """A SiteScale and its SiteError in seven columns that fit a terminal of 80."""
    low, high = f"{scale['low']:.3g}", f"{scale['high']:.3g}"
    before, after = plain(error["max_before"]), plain(error["max_after"])
    return {
        "site": scale["site"],
        "shape": "x".join(map(str, scale["shape"])) or "1",
        "scale": low if low == high else f"{low}..{high}",
        "clipped": f"{scale['clipped_share']:.2g}",
        "SNR dB": error["snr_db"],
        "max": before if before == after else f"{before}->{after}",
        "observer": error["observer"],
    }


def is_infinity(value: Any) -> bool:
    """As transformers writes it into strict JSON: {"__float__": "Infinity"}."""
    return isinstance(value, dict) and value.keys() == {"__float__"}


def plain(value: Any) -> str:
    """A value as people read it; of a list of named things, the names."""
    if value is None:
        return "-"
    if is_infinity(value):
        return "inf"
    if isinstance(value, list | tuple):
        named = all(isinstance(item, dict) and "name" in item for item in value)
        return ", ".join(str(item["name"]) if named else plain(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
