"""Widths by block under a budget: which blocks can do with four bits, found by what each costs in KL.

Every block is first narrowed alone, the others at the widest choice, and scored on text: the KL divergence
from the float model, a token. Then, greedily, the block whose narrowing costs least KL a byte saved is
narrowed, until the budget is met; what KL the blocks cost together is measured on the result. Scores are kept
beside the recipe: a search that was stopped goes on from them, and another budget needs next to none anew.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quamba_export.calib.model.qformat import BLOCKS, MIXABLE, BlockWidths
from quamba_export.calib.recipes.layer_rules import LayerRule
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.runtime.errors import ExitCode, QuambaError

Assignment = tuple[str, ...]  # a width a layer
Score = Callable[[Assignment], float]
Cost = Callable[[Assignment], float]


@dataclass(frozen=True)
class Budget:
    """What an assignment may cost. cost: of one, in `unit`; most: the budget."""

    cost: Cost
    most: float
    unit: str  # "MB" or "ms"


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    cost, kl:       of `widths`; kl in nats a token.
    widest, widest_kl: cost and KL with every block at the widest choice.
    """

    widths: Assignment
    cost: float
    kl: float
    widest: float
    widest_kl: float


def search(n_layer: int, choices: Sequence[str], budget: Budget, score: Score) -> Found:
    """Narrow blocks until the budget is met.

    choices: widths that a block may have, the widest (dearest) first found by their cost.
    Raises QuambaError (exit 2) for a width that no recipe mixes, and, before anything is scored, for a budget
    that is no number or that the cheapest choice everywhere does not meet.
    """
    uniform = check_budget(n_layer, choices, budget)
    widest = max(choices, key=lambda name: uniform[name])
    start = (widest,) * n_layer
    widths, cost = start, uniform[widest]
    moves = _moves(start, choices, budget, score) if cost > budget.most else []
    while cost > budget.most:
        _, i, name = min(move for move in moves if _saves(widths, move[1], move[2], budget))
        widths = _with(widths, i, name)
        cost = budget.cost(widths)
    return Found(widths, cost, score(widths), uniform[widest], score(start))


def check_budget(n_layer: int, choices: Sequence[str], budget: Budget) -> dict[str, float]:
    """Cost of every choice for all blocks. Raises QuambaError as `search` says."""
    check_choices(choices)
    uniform = {name: budget.cost((name,) * n_layer) for name in choices}
    cheapest = min(choices, key=lambda name: uniform[name])
    if not uniform[cheapest] <= budget.most:  # NaN is met by nothing
        raise QuambaError(
            "the budget cannot be met",
            found=f"{budget.most:.6g} {budget.unit}",
            allowed=f"{uniform[cheapest]:.6g} {budget.unit} or more: every block in {cheapest}",
            fix="allow narrower --choices, or give the tables fewer bits: --embedding-bits, --lm-head-bits",
            code=ExitCode.USAGE,
        )
    return uniform


def _moves(
    start: Assignment, choices: Sequence[str], budget: Budget, score: Score
) -> list[tuple[float, int, str]]:
    """(KL added for each unit of cost saved, layer, its new width) of every block alone."""
    base, whole, moves = score(start), budget.cost(start), []
    for i in range(len(start)):
        for name in choices:
            saved = whole - budget.cost(_with(start, i, name))
            if saved > 0:
                moves.append(((score(_with(start, i, name)) - base) / saved, i, name))
    return moves


def _saves(widths: Assignment, i: int, name: str, budget: Budget) -> bool:
    return budget.cost(_with(widths, i, name)) < budget.cost(widths)


def _with(widths: Assignment, i: int, name: str) -> Assignment:
    return (*widths[:i], name, *widths[i + 1 :])


def check_choices(choices: Sequence[str]) -> None:
    """Refuse (exit 2) widths that no recipe mixes, and a single one."""
    if odd := [name for name in choices if name not in MIXABLE]:
        allowed = ", ".join(MIXABLE)
        raise QuambaError("unknown width in --choices", found=odd[0], allowed=allowed, code=ExitCode.USAGE)
    if len(set(choices)) < 2:
        raise QuambaError(
            "a search needs a choice",
            found=", ".join(choices) or "none",
            allowed="two widths or more",
            code=ExitCode.USAGE,
        )


def recipe_with(recipe: Recipe, widths: Assignment) -> Recipe:
    """The recipe with these widths by block in place of its own."""
    default = max(sorted(set(widths)), key=widths.count)
    rules = [replace(rule, qformat=None) for rule in recipe.layers if rule.observers]
    for name in sorted(set(widths) - {default}):
        numbers = [i for i, own in enumerate(widths) if own == name]
        rules.append(LayerRule(", ".join(map(str, numbers)), {}, name))
    return replace(recipe, layers=tuple(rules), qformat=default)


def blocks_of(widths: Assignment) -> tuple[BlockWidths, ...]:
    return tuple(BLOCKS[name] for name in widths)


class KeptScores:
    """Scores by assignment in a file beside the recipe, which is read again only for the same question.

    question: everything a score depends on but the assignment. One line a score, written when it is known.
    """

    def __init__(self, path: Path, question: dict[str, str], score: Score) -> None:
        text = json.dumps(question, sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        self._path, self._score = path, score
        self._known: dict[Assignment, float] = {}
        self.computed = 0
        kept = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in kept.splitlines():
            self._take(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("" if kept.endswith("\n") or not kept else "\n")  # behind a line that a kill cut short

    def __call__(self, widths: Assignment) -> float:
        if widths not in self._known:
            self._known[widths] = self._score(widths)
            self.computed += 1
            entry = {"question": self._key, "widths": " ".join(widths), "kl": self._known[widths]}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
                file.flush()
                os.fsync(file.fileno())
        return self._known[widths]

    def _take(self, line: str) -> None:
        """A line of this question; one that a kill cut short, or of another question, is passed over."""
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return
        if entry.get("question") == self._key:
            self._known[tuple(entry["widths"].split())] = float(entry["kl"])
