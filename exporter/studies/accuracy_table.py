"""The table of docs/accuracy.md: every recipe and width on every model, prefill and decode, beside float.

Each row is a variant as `sweep --vary` would name it, so that a row that is missing is one line here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.qformat import BLOCKS
from quamba_export.calib.observers.observer import refuse_unknown
from quamba_export.calib.recipes.recipe import default_recipe
from quamba_export.exporter.studies.sweep_table import markdown
from quamba_export.exporter.studies.variants import Variant, parse_vary, variants
from quamba_export.runtime.errors import ExitCode, QuambaError

HEADS = ("row", "prefill", "KL", "top-1", "decode", "KL", "top-1", "last words")


@dataclass(frozen=True)
class Row:
    """One line of the table: its name and the fields of its variant, without them the model's default recipe.

    kind: of the models that it is for; both where it is empty.
    """

    name: str
    fields: Mapping[str, str]
    kind: str = ""

    def is_for(self, config: MambaConfig) -> bool:
        """Whether the model can be made so, and the row's width is one of this version's."""
        return self.kind in ("", config.kind) and self.fields.get("qformat", "w8a8") in BLOCKS


DESCENT = {"weights.kind": "gptq", "weights.descent_sweeps": "4", "weights.damping": "0.1"}
ROWS = (
    Row("smoothquant-w8a8", {"recipe": "smoothquant"}),
    Row("quarot-w8a8", {"recipe": "quarot"}),
    Row("quamba-w8a8", {"recipe": "quamba"}),
    Row("quamba-w8a8-int8-state", {"recipe": "quamba", "ssm-state-dtype": "int8"}),
    Row("quamba2-w8a8", {"recipe": "quamba2"}, "mamba2"),
    Row("quamba2-w8a8-int8-state", {"recipe": "quamba2", "ssm-state-dtype": "int8"}, "mamba2"),
    Row("w8a8-int8-dynamic-state", {"ssm-state-dtype": "int8-dynamic"}),
    Row("w4a8-nearest", {"qformat": "w4a8"}),
    Row("w4a8-gptq", {"qformat": "w4a8", "weights.kind": "gptq"}),
    Row("w4a8-gptq-descent", {"qformat": "w4a8", **DESCENT}),
    Row("klt-w4a8-gptq", {"klt": "on", "qformat": "w4a8", "weights.kind": "gptq"}),
    Row("w4a16-nearest", {"qformat": "w4a16"}),
    Row("w4a16-gptq", {"qformat": "w4a16", "weights.kind": "gptq"}),
    Row("w4a16-gptq-descent", {"qformat": "w4a16", **DESCENT}),
    Row("weight-only-int8", {"qformat": "w8a16"}),
    Row("fp16", {"qformat": "fp16"}),
)


def chosen_rows(only: Sequence[str], configs: Mapping[str, MambaConfig]) -> dict[str, list[Row]]:
    """The rows of every model, or those named that are for it; a model without any is left out.

    configs: by checkpoint. Raises QuambaError (exit 2) for an unknown name, with the nearest one, and where
    the rows named are for none of the models.
    """
    refuse_unknown(only, [row.name for row in ROWS], "row of the table", ExitCode.USAGE)
    rows = {
        checkpoint: [row for row in ROWS if row.is_for(config) and row.name in (only or [row.name])]
        for checkpoint, config in configs.items()
    }
    if not any(rows.values()):
        raise QuambaError(
            "no row of the table is for these models",
            found=f"--only {', '.join(only)} for {', '.join(sorted({c.kind for c in configs.values()}))}",
            allowed=", ".join(row.name for row in ROWS if any(row.is_for(c) for c in configs.values())),
            code=ExitCode.USAGE,
        )
    return {checkpoint: chosen for checkpoint, chosen in rows.items() if chosen}


def row_variants(rows: Sequence[Row], config: MambaConfig, samples: int, length: int) -> list[Variant]:
    """What `sweep` would make of the rows, on the model's default recipe."""
    base = default_recipe(config)
    made = []
    for row in rows:
        vary = parse_vary([f"{field}={value}" for field, value in row.fields.items()])
        made += variants(vary, base, config, samples, length)
    return made


def table_of(results: Sequence[tuple[Row, dict[str, Any]]]) -> str:
    """Markdown of one model: perplexity with its ratio to float, KL in nats a token, top-1 agreement.

    Last words with the standard error of their share, in prefill; "-" where none were asked for.
    """
    scores = results[0][1]
    float_cells = ["float"]
    for mode in ("prefill", "decode"):
        float_cells += [f"{scores[mode]['against_perplexity']:.4f}", "-", "-"]
    words = scores["prefill"].get("against_cloze_accuracy")
    float_cells.append("-" if words is None else f"{words:.1%}")
    return markdown(HEADS, [float_cells, *(_cells(row, found) for row, found in results)])


def _cells(row: Row, scores: dict[str, Any]) -> list[str]:
    cells = [row.name]
    for mode in ("prefill", "decode"):
        facts = scores[mode]
        cells += [f"{facts['perplexity']:.4f} ({facts['ratio']:.4f})", f"{facts['kl']:.4f}"]
        cells += [f"{facts['top1_agreement']:.1%}"]
    facts = scores["prefill"]
    if "cloze_accuracy" not in facts:
        return [*cells, "-"]
    return [*cells, f"{facts['cloze_accuracy']:.1%} +- {facts['cloze_standard_error']:.1%}"]


def model_folders(out: Path, checkpoints: Sequence[str]) -> dict[str, Path]:
    """Where the calibrations and scores of each model lie: a folder of its name.

    Raises QuambaError (exit 2) where two would share one.
    """
    folders = {checkpoint: out / Path(os.path.abspath(checkpoint)).name for checkpoint in checkpoints}
    for folder in folders.values():
        same = [other for other in checkpoints if folders[other] == folder]
        if len(same) > 1:
            raise QuambaError(
                "two models have one name in the table",
                found=", ".join(same),
                allowed="checkpoints whose last folders have different names",
                fix="run the command once for each, with another -o",
                code=ExitCode.USAGE,
            )
    return folders
