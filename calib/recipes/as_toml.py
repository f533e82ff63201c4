"""A recipe as the text of its TOML file, for programs that write recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quamba_export.calib.recipes.recipe import Recipe


def recipe_toml(recipe: Recipe, comment: str = "") -> str:
    """The file that `load_recipe` reads as this recipe; `comment` stands above it, a # before every line."""
    table = {name: value for name, value in recipe.as_table().items() if name != "name"}
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [
        f"{name} = {_value(value)}" for name, value in table.items() if not isinstance(value, (Mapping, list))
    ]
    for site, observer in table["observers"].items():
        lines += ["", f"[observers.{site}]", *_fields(observer)]
    lines += ["", "[weights]", *_fields(table["weights"])]
    for rule in table.get("layers", []):
        lines += ["", "[[layers]]", *_fields({k: v for k, v in rule.items() if k != "observers"})]
        lines += [f"observers.{site} = {_value(value)}" for site, value in rule.get("observers", {}).items()]
    return "\n".join(lines) + "\n"


def _fields(table: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {_value(value)}" for name, value in table.items()]


def _value(value: Any) -> str:
    """Of a bool, a number, a string without control characters, or a table of them."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_fields(value)) + " }"
    return json.dumps(value)
