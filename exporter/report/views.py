"""A run as the report shows it: charts, figures and sentences; report.html only lays them out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from quamba_export.exporter.inspection.model_columns import STATES, layer_sites, model_columns
from quamba_export.exporter.report.charts import Band, Bar, heatmap, megabytes, small_multiples, stacked_bars
from quamba_export.exporter.report.data import CLOSE, Facts, Run

FULL_COLOUR_DB, NO_COLOUR_DB = 10.0, 45.0  # signal to noise: at 10 dB a third of the signal is lost
FULL_COLOUR_SHARE, NO_COLOUR_SHARE = 1e-2, 1e-6  # clipped values
MOST_COLUMNS = 24  # a deeper model shows every k-th layer
NARROW = 8  # up to so many layers two heat maps stand side by side


def view_of(run: Run) -> dict[str, Any]:
    """Everything report.html needs of a run; an absent part is None or empty."""
    return {
        "name": run.name,
        "architecture": architecture(run),
        "kept": kept(run),
        "deep": layers_of(run) > NARROW,
        "tiles": tiles(run),
        "scores": run.scores,
        "widest": max((abs(score.change or 0) for score in run.scores), default=0) or 1,
        "pairs": pair_views(run.comparison) if run.comparison else [],
        "comparison": run.comparison,
        "columns": model_columns(run.comparison) if run.comparison else [],
        "scales": scale_chart(run.calibration) if run.calibration else None,
        "clipping": clipping_chart(run.calibration) if run.calibration else None,
        "sizes": size_chart(run),
        "generation": run.generation,
        "details": details(run),
    }


def headline(runs: list[Run]) -> str:
    """The page in one sentence."""
    changes = [change for run in runs for change in run.default_changes()]
    formats = {score.facts["qformat"].upper() for run in runs for score in run.quantized_scores}
    if not changes:
        return "No perplexity was measured before and after."
    who = {1: "the model", 2: "both models"}.get(len(runs), f"all {len(runs)} models")
    at, worst = f"At {' and '.join(sorted(formats))}", percent(max(changes))
    if max(changes) > CLOSE:
        return f"{at}, perplexity rises by up to {worst} over float."
    stay = "stays" if len(runs) == 1 else "stay"
    return f"{at}, {who} {stay} within 1 % of float perplexity; the largest change is {worst}."


def percent(change: float) -> str:
    """+0.35 %, with the sign a reader looks for."""
    return f"{change:+.2%}".replace("%", " %").replace("-", "\N{MINUS SIGN}")


def architecture(run: Run) -> str:
    facts = run.checkpoint or run.calibration or run.export
    if facts is None:
        return ""
    config = facts["config"]
    kind = {"mamba1": "Mamba-1", "mamba2": "Mamba-2"}[config["kind"]]
    words = [kind, f"{config['n_layer']} layers", f"d_model {config['d_model']}"]
    if run.checkpoint:
        words.append(f"{run.checkpoint['parameters'] / 1e6:.1f} M parameters")
    return ", ".join(words)


def layers_of(run: Run) -> int:
    facts = run.calibration or run.checkpoint or run.export
    return int(facts["config"]["n_layer"]) if facts else 0


def kept(run: Run) -> bool | None:
    """Whether the exported model is within 1 % of float in every mode that was measured."""
    changes = run.default_changes()
    return all(change <= CLOSE for change in changes) if changes else None


def tiles(run: Run) -> list[tuple[str, str, str]]:
    """(title, figure, remark) of the summary."""
    found = []
    for mode in ("prefill", "decode"):
        change = run.change_in(mode)
        score = next(
            (s for s in run.quantized_scores if s.facts["mode"] == mode and s.change == change), None
        )
        if score is not None and change is not None:
            before = score.facts["perplexity"] / (1 + change)
            found.append(
                (f"Perplexity, {mode}", percent(change), f"{before:.3f} to {score.facts['perplexity']:.3f}")
            )
    agreement = next(
        (s.facts["top1_agreement"] for s in run.quantized_scores if "top1_agreement" in s.facts), None
    )
    if agreement is not None:
        found.append(("Same likeliest token", f"{agreement:.1%}".replace("%", " %"), "as the float model"))
    if run.checkpoint and run.export:
        before, after = (sum(facts["bytes_by_group"].values()) for facts in (run.checkpoint, run.export))
        found.append(("Weights", megabytes(after), f"from {megabytes(before)}"))
    return found


def pair_views(comparison: Facts) -> list[dict[str, Any]]:
    """Each pair of models: heat map, states, and whether codes agree."""
    return [pair_view(pair) for pair in comparison["pairs"]]


def pair_view(pair: Facts) -> dict[str, Any]:
    sites = layer_sites(pair)
    codes = [site for site in sites if site["differing_codes"] is not None]
    return {
        **pair,
        "chart": site_chart(
            sites, "snr_db", snr_strength, lambda value: f"{value:.0f}", f"SNR in dB, {pair['candidate']}"
        ),
        "equal": sum(site["differing_codes"] == 0 for site in codes),
        "compared": len(codes),
        "worst": max((site["differing_codes"] for site in codes), default=0.0),
    }


def site_chart(
    sites: list[Facts], key: str, strength: Callable[[float], float], text: Callable[[float], str], title: str
) -> Markup:
    """Heat map, a row a site in the order of computation, states last; a column a layer."""
    table: dict[str, dict[int, float | None]] = {}
    for site in sites:
        _, layer, name = site["site"].split(".")
        value = site[key]
        table.setdefault(name, {})[int(layer)] = (
            math.inf if value is None and site.get("max_abs") == 0 else value
        )
    names = sorted(table, key=lambda name: name in STATES)
    layers = shown_layers(1 + max(layer for row in table.values() for layer in row))
    cells = [[table[name].get(layer) for layer in layers] for name in names]
    return Markup(heatmap(names, [str(layer) for layer in layers], cells, strength, text, title))


def shown_layers(count: int) -> list[int]:
    return list(range(0, count, math.ceil(count / MOST_COLUMNS)))


def snr_strength(value: float) -> float:
    return (NO_COLOUR_DB - value) / (NO_COLOUR_DB - FULL_COLOUR_DB)


def clipping_chart(calibration: Facts) -> Markup | None:
    """Share of the calibration values beyond their scale's range, of the sites that clip at all."""
    names = {site["name"] for site in calibration["sites"] if site["clipped_share"]}
    sites = [site for site in calibration["sites"] if site["name"] in names]
    return site_chart(sites, "clipped_share", share_strength, share_text, "clipped share") if sites else None


def share_strength(share: float) -> float:
    span = math.log(FULL_COLOUR_SHARE / NO_COLOUR_SHARE)
    return math.log(share / NO_COLOUR_SHARE) / span if share > NO_COLOUR_SHARE else 0.0


def share_text(share: float) -> str:
    """0, 3e-5, .2% - as short as a cell is wide."""
    if share == 0:
        return "0"
    return f"{share:.1%}" if share >= 1e-3 else f"{share:.0e}".replace("e-0", "e-")


def scale_chart(calibration: Facts) -> Markup:
    """A panel a site: its scale over the layers, with the range of its groups."""
    bands: dict[str, list[Facts]] = {}
    for site in sorted(calibration["sites"], key=lambda site: int(site["layer"])):
        bands.setdefault(site["name"], []).append(site)
    panels = [
        Band(name, [s["low"] for s in rows], [s["middle"] for s in rows], [s["high"] for s in rows])
        for name, rows in bands.items()
    ]
    return Markup(small_multiples(panels, "scales per layer and site"))


def size_chart(run: Run) -> dict[str, Any] | None:
    """Bytes of the weights before and after, by kind."""
    if run.checkpoint is None or run.export is None:
        return None
    columns = {"checkpoint": run.checkpoint["bytes_by_group"], "export": run.export["bytes_by_group"]}
    groups = list(dict.fromkeys(group for sizes in columns.values() for group in sizes))
    bars = [
        Bar(label, [(group, sizes.get(group, 0)) for group in groups]) for label, sizes in columns.items()
    ]
    return {"chart": Markup(stacked_bars(bars, "bytes of the weights")), "groups": groups}


def details(run: Run) -> list[tuple[str, str]]:
    """Where the figures come from."""
    lines = []
    if run.checkpoint:
        lines += [("checkpoint", f"{run.checkpoint['path']}, sha256 {run.checkpoint['digest'][:16]}")]
    if run.calibration:
        facts = run.calibration["run"]
        lines += [("recipe", run.calibration["recipe"]["name"])]
        lines += [
            (f"calibration, {key}", str(value))
            for key, value in facts.items()
            if isinstance(value, int | str)
        ]
    if run.export:
        states = ", ".join(f"{name} {dtype}" for name, dtype in run.export["state_dtypes"].items())
        lines += [("producer", run.export["producer"]), ("states", states)]
        lines += [("state of one sequence", megabytes(sum(run.export["state_bytes"].values())))]
    for score in run.scores[:1]:
        windows = f"{score.facts['tokens']} tokens in windows of {score.facts['window']}"
        lines += [("perplexity over", windows)]
    return lines
