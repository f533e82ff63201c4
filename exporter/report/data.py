"""What the report is made of: the commands' `--json` outputs, one folder a model, read and put in relation.

A run folder holds any of: inspect-checkpoint.json, inspect-calibration.json, inspect-export.json,
eval*.json, compare.json, run.json. What is missing leaves its section out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quamba_export.runtime.errors import QuambaError

Facts = dict[str, Any]
MODES = ("prefill", "decode")
CLOSE = 0.01  # a perplexity within 1 % of float counts as kept
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class Score:
    """One evaluation beside the float model's."""

    label: str
    facts: Facts
    change: (
        float | None
    )  # perplexity over float's, minus 1; None for float itself, or where there is no float figure


@dataclass(frozen=True)
class Run:
    """Everything that is known about one model."""

    name: str
    checkpoint: Facts | None
    calibration: Facts | None
    export: Facts | None
    comparison: Facts | None
    generation: Facts | None
    scores: list[Score]

    @property
    def quantized_scores(self) -> list[Score]:
        return [score for score in self.scores if score.change is not None]

    def change_in(self, mode: str) -> float | None:
        """Change of perplexity of the exported model in a mode; of the reference where none was scored."""
        order = {"bundle": 0, "export": 1, "reference": 2}
        scores = [score for score in self.quantized_scores if score.facts["mode"] == mode]
        scores.sort(key=lambda score: (score.facts["ssm_state_dtype"] == "int8", order[score.facts["kind"]]))
        return scores[0].change if scores else None

    def default_changes(self) -> list[float]:
        """Changes of the exported model, a mode each, as far as they were measured."""
        return [change for mode in MODES if (change := self.change_in(mode)) is not None]


def read_runs(folders: list[Path]) -> list[Run]:
    """The runs in the folders named, or in their subfolders, in name order.

    Raises QuambaError where a folder holds no run, or a file is not a command's JSON.
    """
    found = [
        folder for given in folders for folder in (given, *sorted(given.iterdir() if given.is_dir() else []))
    ]
    runs = [
        read_run(folder)
        for folder in found
        if folder.is_dir() and any(folder.glob("*.json")) and is_run(folder)
    ]
    if not runs:
        raise QuambaError(
            "nothing to report on",
            found=_found(folders),
            allowed="folders with eval*.json, compare.json, inspect-*.json",
            fix="keep what the commands print with --json, for example"
            " `quamba-export eval bundle/ --data TEXT --json > run/eval-bundle.json`",
        )
    return runs


def _found(folders: list[Path]) -> str:
    """What there is instead, for people whose files have other names."""
    said = []
    for folder in folders:
        kind = "a file" if folder.is_file() else "no such folder"
        names = sorted(path.name for path in folder.glob("*.json"))
        inside = f"{', '.join(names[:5])}, names of no command's" if names else "no JSON files"
        said.append(f"{folder}: {inside if folder.is_dir() else kind}")
    return "; ".join(said)


def is_run(folder: Path) -> bool:
    patterns = ("eval*.json", "compare.json", "inspect-*.json")
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def read_run(folder: Path) -> Run:
    evaluations = [read_facts(path) for path in sorted(folder.glob("eval*.json"))]
    return Run(
        name=folder.name,
        checkpoint=read_optional(folder / "inspect-checkpoint.json"),
        calibration=read_optional(folder / "inspect-calibration.json"),
        export=read_optional(folder / "inspect-export.json"),
        comparison=read_optional(folder / "compare.json"),
        generation=read_optional(folder / "run.json"),
        scores=scores_of(evaluations),
    )


def scores_of(evaluations: list[Facts]) -> list[Score]:
    """Evaluations, float first, each beside the float perplexity of its mode, or else of any mode."""
    evaluations.sort(
        key=lambda facts: (facts["kind"] != "checkpoint", facts["mode"] == "decode", facts["ssm_state_dtype"])
    )
    floats = {facts["mode"]: facts["perplexity"] for facts in evaluations if facts["kind"] == "checkpoint"}
    scores = []
    for facts in evaluations:
        base = floats.get(facts["mode"], next(iter(floats.values()), None))
        change = None if facts["kind"] == "checkpoint" or base is None else facts["perplexity"] / base - 1
        scores.append(Score(label_of(facts), facts, change))
    return scores


def label_of(facts: Facts) -> str:
    """What a person calls an evaluated model."""
    if facts["kind"] == "checkpoint":
        return "float32"
    where = "PyTorch reference" if facts["kind"] == "reference" else facts["engine"]
    return f"{facts['qformat'].upper()}, {where}"


def read_optional(path: Path) -> Facts | None:
    return read_facts(path) if path.is_file() else None


def read_facts(path: Path) -> Facts:
    """One command's JSON object. Raises QuambaError naming a file that is none."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise QuambaError(
            f"{path} is no command's JSON", found=str(error), fix="run that command again"
        ) from error
    if not isinstance(facts, dict):
        raise QuambaError(f"{path} is no command's JSON", found=type(facts).__name__, allowed="an object")
    return facts
