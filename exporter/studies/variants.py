"""The variants of a sweep: every combination of the fields that `--vary` names, checked before any work."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from dataclasses import field as with_default
from typing import Any

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.enough_data import check_enough
from quamba_export.calib.model.qformat import qformat_named
from quamba_export.calib.model.quantize_model import check_form
from quamba_export.calib.model.scan_input import (
    MODES,
    SCALED,
    STUDY_FACTOR,
    InputMode,
    ScanInput,
    check_scan_input,
    scan_input_named,
)
from quamba_export.calib.model.state_dtype import STATE_DTYPES, SsmStateDtype
from quamba_export.calib.model.uncalibrated import uncalibrated_recipe
from quamba_export.calib.observers.kinds import OBSERVERS
from quamba_export.calib.observers.observer import refuse_unknown
from quamba_export.calib.recipes.recipe import Recipe, default_recipe, load_recipe, recipe_from_table
from quamba_export.calib.rounding.kinds import ROUNDINGS
from quamba_export.calib.sites import SITES
from quamba_export.runtime.errors import ExitCode, QuambaError

MOST_VARIANTS = 1000
_FLAGS = ("klt", "rotate_residual", "rotate_out_proj", "reorder", "per_channel_weights")
_COUNTS = ("head_groups", "channel_groups")
_NUMBERS = ("smoothing",)
_OUTPUTS = ("qformat", "ssm-state-dtype", "ssm-input", "scale-factor")


@dataclass(frozen=True)
class Variant:
    """One model of a sweep: how it is calibrated, and in which form it is scored.

    values: field -> value as it was asked for, the row's name in tables.
    """

    values: Mapping[str, str]
    recipe: Recipe
    qformat: str = "w8a8"
    ssm_state_dtype: SsmStateDtype = "float16"
    ssm_input: ScanInput = with_default(default_factory=ScanInput)

    @property
    def name(self) -> str:
        return ", ".join(f"{field} {value}" for field, value in self.values.items()) or self.recipe.name


def known_fields() -> list[str]:
    """Every field that `--vary` takes, the ones with one word first."""
    sites = ["default", *sorted({site for sites in SITES.values() for site in sites})]
    options = sorted({"kind", *(field.name for observer in OBSERVERS.values() for field in fields(observer))})  # type: ignore[arg-type]
    rounding = sorted({"kind", *(field.name for kind in ROUNDINGS.values() for field in fields(kind))})
    return [
        *(
            "recipe",
            "observer",
            "alpha",
            "sigma",
            "groups",
            "hadamard",
            *_FLAGS,
            *_COUNTS,
            *_NUMBERS,
            *_OUTPUTS,
        ),
        *(f"observers.{site}.{option}" for site in sites for option in options),
        *(f"weights.{option}" for option in rounding),
    ]


def parse_vary(flags: Sequence[str]) -> dict[str, list[str]]:
    """`FIELD=VALUE,VALUE` of every --vary.

    Raises QuambaError for an unknown field, with the nearest one, and (exit 2) for a field without values.
    """
    found: dict[str, list[str]] = {}
    for flag in flags:
        field, equals, values = flag.partition("=")
        field = field.strip()
        named = [value.strip() for value in values.split(",") if value.strip()]
        if not equals or not named:
            allowed = "FIELD=VALUE or FIELD=VALUE,VALUE, as in alpha=0.999,1.0"
            raise QuambaError("a --vary names no values", found=flag, allowed=allowed, code=ExitCode.USAGE)
        spelled = field.replace("_", "-") if field.replace("_", "-") in _OUTPUTS else field
        _refuse_unknown_field(spelled)
        if spelled in found or len(set(named)) < len(named):
            raise QuambaError("a --vary twice", found=flag, allowed="every value once", code=ExitCode.USAGE)
        found[spelled] = named
    return found


def _refuse_unknown_field(field: str) -> None:
    known = known_fields()
    if field in known:
        return
    near = difflib.get_close_matches(field, known, n=1)
    short = ", ".join(name for name in known if "." not in name)
    raise QuambaError(
        f"unknown field of --vary: {field}",
        allowed=f"{short}, observers.SITE.OPTION, weights.OPTION",
        fix=f"did you mean {near[0]}?" if near else "",
        code=ExitCode.USAGE,
    )


def variants(
    vary: Mapping[str, Sequence[str]], base: Recipe, config: MambaConfig, samples: int, length: int
) -> list[Variant]:
    """Every combination, the last field fastest, of the values of `vary` on `base`.

    Raises QuambaError where one cannot be made of this model and so many samples.
    """
    count = 1
    for values in vary.values():
        count *= len(values)
    if count > MOST_VARIANTS:
        allowed = f"{MOST_VARIANTS} at most"
        raise QuambaError("too many variants", found=str(count), allowed=allowed, code=ExitCode.USAGE)
    made = []
    for values in itertools.product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        made.append(_variant(chosen, base, config, samples, length))
    return made


def _variant(values: dict[str, str], base: Recipe, config: MambaConfig, samples: int, length: int) -> Variant:
    table = load_recipe(values["recipe"]).as_table() if "recipe" in values else base.as_table()
    for field in sorted(values, key=_order):
        _set(table, field, values[field])
    table["name"] = values.get("recipe", base.name)
    recipe = recipe_from_table(table)
    recipe.check_fits(config)
    recipe.check_groups(config)
    default = default_recipe(config)
    if replace(recipe, weights=default.weights).as_table() != default.as_table():  # as calibrate refuses
        check_enough(recipe, config, samples, length)
    widths = qformat_named(values.get("qformat", "w8a8"))
    state = _state_dtype(values.get("ssm-state-dtype", widths.ssm_state_dtype))
    mode = scan_input_named(values.get("ssm-input", "int8"), _factor(values))
    return _checked(Variant(values, recipe, widths.name, state, mode), config)


def _checked(variant: Variant, config: MambaConfig) -> Variant:
    """The variant, whose form is one that its calibration is for."""
    widths, state = qformat_named(variant.qformat), variant.ssm_state_dtype
    recipe = uncalibrated_recipe(config, widths) if widths.of_floats else variant.recipe
    blocks = check_form(recipe, config.n_layer, widths, state)
    check_scan_input(variant.ssm_input, recipe, widths.name, blocks, state)
    return variant


def _state_dtype(name: str) -> SsmStateDtype:
    refuse_unknown([name], STATE_DTYPES, "--ssm-state-dtype")
    return next(dtype for dtype in STATE_DTYPES if dtype == name)


def _factor(values: Mapping[str, str]) -> str | None:
    """The factor of a mode that has one: in a sweep over modes it is no fault that others have none."""
    mode = values.get("ssm-input", "int8")
    return values.get("scale-factor") if "scale" in mode or mode == "w4a5-se" else None


def _order(field: str) -> int:
    """Kinds before the options of a kind, groups before how many."""
    return 0 if field in ("observer", "groups") or field.endswith(".kind") else 1


def _set(table: dict[str, Any], field: str, value: str) -> None:
    """Put one value where its field has its place in a recipe's table; what is no recipe field stays out."""
    if field == "groups":
        heads, _, channels = value.partition("x")
        grouped = {"head_groups": _whole(field, heads), "channel_groups": _whole(field, channels)}
        table |= {**grouped, "reorder": True}
    elif field in _FLAGS or field == "hadamard":
        table["rotate_out_proj" if field == "hadamard" else field] = _flag(field, value)
    elif field in _COUNTS:
        table[field] = _whole(field, value)
    elif field in _NUMBERS:
        table[field] = _plain(value)
    elif field == "observer":
        _set_option(table["observers"], "x", "kind", value)
    elif field in ("alpha", "sigma"):
        _set_option(table["observers"], "x", field, value, kind="percentile")
    elif field.startswith("observers."):
        _, site, option = field.split(".")
        _set_option(table["observers"], site, option, value)
    elif field.startswith("weights."):
        _set_option(table, "weights", field.partition(".")[2], value)


def _set_option(tables: dict[str, Any], place: str, option: str, value: str, kind: str = "") -> None:
    """One option of an observer or a rounding; another kind starts anew.

    kind: taken where the kind that is there has no such option.
    """
    table = tables.get(place) or tables.get("default") or {"kind": "absmax"}
    if option == "kind":
        tables[place] = {"kind": value}
        return
    if kind and option not in table:
        table = {"kind": kind}
    tables[place] = {**table, option: _plain(value)}


def _plain(value: str) -> Any:
    """A number or flag as JSON spells it, else the word."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def _flag(field: str, value: str) -> bool:
    words = {"on": True, "true": True, "off": False, "false": False}
    if value not in words:
        allowed = ", ".join(words)
        raise QuambaError(f"{field} is a flag", found=value, allowed=allowed, code=ExitCode.USAGE)
    return words[value]


def _whole(field: str, value: str) -> int:
    if not value.isdecimal():
        allowed = "a number, or for groups two: 4x4"
        raise QuambaError(f"{field} is a number", found=value or "none", allowed=allowed, code=ExitCode.USAGE)
    return int(value)


def scan_input_variants(made: Sequence[Variant], config: MambaConfig) -> list[Variant]:
    """Every mode of the scan's input on each of `made`, with the study's factor and the control groups.

    Raises QuambaError as check_scan_input does.
    """
    rows: list[tuple[InputMode, float | None]] = [(mode, None) for mode in MODES]
    rows += [("dual-scale", STUDY_FACTOR), ("dual-scale", 1.0), ("uniform-scale", 1.0)]
    found = []
    for variant in made:
        for mode, factor in rows:
            shown = {"ssm-input": mode, "scale-factor": _shown(mode, factor)}
            values = {**variant.values, **shown}
            found.append(_checked(replace(variant, values=values, ssm_input=ScanInput(mode, factor)), config))
    return found


def _shown(mode: str, factor: float | None) -> str:
    if factor is None:
        return "auto" if mode in SCALED else "-"
    return {1.0: "1 (control)", STUDY_FACTOR: f"{STUDY_FACTOR:g} (the study's)"}[factor]
