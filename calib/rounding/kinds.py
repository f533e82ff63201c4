"""The ways of rounding weights that a recipe can name, and the table of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from quamba_export.calib.observers.observer import refuse_unknown
from quamba_export.calib.rounding.gptq import Gptq
from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.way import Rounding
from quamba_export.runtime.errors import QuambaError

ROUNDINGS: dict[str, type[Rounding]] = {rounding.kind: rounding for rounding in (Nearest, Gptq)}


def rounding_from_table(table: Mapping[str, Any], where: str = "weights") -> Rounding:
    """The rounding of a recipe's table, its options of the type of their defaults.

    Raises QuambaError, naming `where`, for an unknown kind or option, or a value of another type.
    """
    kind = str(table.get("kind"))
    refuse_unknown([kind], ROUNDINGS, f"rounding kind in {where}")
    options = {name: value for name, value in table.items() if name != "kind"}
    known = {field.name: type(field.default) for field in fields(ROUNDINGS[kind])}
    for name in options:
        _refuse_option_of_another(name, kind, where)
    refuse_unknown(options, known, f"option of {kind} in {where}")
    for name, value in options.items():
        expected = known[name]
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise QuambaError(
                f"{where}.{name} has a wrong value", found=repr(value), allowed=expected.__name__
            )
    return ROUNDINGS[kind](**options)


def _refuse_option_of_another(name: str, kind: str, where: str) -> None:
    kinds = [
        other for other, rounding in ROUNDINGS.items() if name in {field.name for field in fields(rounding)}
    ]
    if kinds and kind not in kinds:
        raise QuambaError(
            f"unknown option of {kind} in {where}: {name}",
            found=f"an option of {', '.join(kinds)}",
            allowed=", ".join(field.name for field in fields(ROUNDINGS[kind])),
            fix=f'round by it: --rounding {kinds[0]}, or kind = "{kinds[0]}" in the recipe\'s table',
        )
