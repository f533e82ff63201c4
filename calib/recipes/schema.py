"""The JSON schema of a recipe, for editors and for other programs: made of the recipe's own fields.

`python -m quamba_export.calib.recipes.schema > docs/recipe.schema.json` writes it anew.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Any

from quamba_export.calib.model.qformat import MIXABLE
from quamba_export.calib.observers.kinds import OBSERVERS
from quamba_export.calib.observers.observer import Observer
from quamba_export.calib.recipes.layer_rules import NUMBERS, PLACES
from quamba_export.calib.recipes.options import option_schema
from quamba_export.calib.recipes.recipe import MOST_GROUPS, Recipe
from quamba_export.calib.rounding.kinds import ROUNDINGS
from quamba_export.calib.rounding.way import Rounding
from quamba_export.calib.sites import SITES

_TYPES = {bool: "boolean", int: "integer", float: "number"}
_OBSERVERS = {"$ref": "#/$defs/observers"}
_FIELDS: dict[str, dict[str, Any]] = {
    "name": {"type": "string", "description": "The file's name where it is missing."},
    "observers": {**_OBSERVERS, "description": "Observer by site; `default` is for every site without one."},
    "layers": {"type": "array", "items": {"$ref": "#/$defs/layer_rule"}},
    "weights": {"$ref": "#/$defs/rounding"},
    "qformat": {"enum": list(MIXABLE), "description": "Widths of the other blocks in a w4ax export."},
    "head_groups": {"type": "integer", "minimum": 1, "maximum": MOST_GROUPS},
    "channel_groups": {"type": "integer", "minimum": 1, "maximum": MOST_GROUPS},
    "smoothing": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "SmoothQuant's alpha; without it nothing is smoothed.",
    },
}
_LAYER_RULE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["at"],
    "anyOf": [{"required": ["observers"]}, {"required": ["qformat"]}],
    "properties": {
        "at": {
            "anyOf": [{"enum": list(PLACES)}, {"type": "string", "pattern": f"^{NUMBERS}$"}],
            "description": "A third of the layers, the first, the last, or layers by number from 0 on.",
        },
        "observers": {**_OBSERVERS, "minProperties": 1},
        "qformat": {"enum": list(MIXABLE), "description": "Widths of these blocks in a w4ax export."},
    },
}


def recipe_schema() -> dict[str, Any]:
    """Draft 2020-12. What depends on the model, and on two fields at once, is checked by recipe.py alone."""
    sites = sorted({site for sites in SITES.values() for site in sites})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "quamba-export recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            field.name: _FIELDS.get(field.name, {"type": "boolean"})
            | ({} if field.default in (MISSING, ()) else {"default": field.default})
            for field in fields(Recipe)
        },
        "$defs": {
            "observers": {
                "type": "object",
                "additionalProperties": False,
                "properties": {site: {"$ref": "#/$defs/observer"} for site in ("default", *sites)},
            },
            "observer": {"oneOf": [_observer_schema(observer) for observer in OBSERVERS.values()]},
            "layer_rule": _LAYER_RULE,
            "rounding": {"oneOf": [_rounding_schema(rounding) for rounding in ROUNDINGS.values()]},
        },
    }


def _observer_schema(observer: type[Observer]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": (observer.__doc__ or "").split("\n\n")[0].strip(),
        "additionalProperties": False,
        "required": ["kind"],
        "properties": {"kind": {"const": observer.kind}, **option_schema(observer)},
    }


def _rounding_schema(rounding: type[Rounding]) -> dict[str, Any]:
    """Options have the types of their defaults, as rounding_from_table takes them, and their ranges."""
    options = {
        option.name: {
            "type": _TYPES[type(option.default)],
            **option.metadata.get("schema", {}),
            "default": option.default,
        }
        for option in fields(rounding)
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["kind"],
        "properties": {"kind": {"const": rounding.kind}, **options},
    }


if __name__ == "__main__":
    print(json.dumps(recipe_schema(), indent=1))
