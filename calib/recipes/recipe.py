"""A recipe: how every scale of a model is chosen, and which exact rewrites come first. Policy, as TOML.

```toml
rotate_out_proj = true          # online Hadamard in front of out_proj, its inverse in the weight
[observers.default]             # every site without a table of its own
kind = "absmax"
[observers.x]                   # a site of docs/architecture.md by its short name, in all layers
kind = "percentile"
alpha = 0.99999
[[layers]]                      # before the observers above, in some layers; the last entry that fits counts
at = "late"                     # early, middle, late (a third each), first, last, or "0-3, 7"
observers.x = { kind = "percentile", alpha = 0.9995 }
[weights]                       # how in_proj and out_proj are rounded; nearest where there is no such table
kind = "gptq"
bits = 4
```
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from dataclasses import field as with_default
from pathlib import Path
from typing import Any

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.qformat import BLOCKS, BlockWidths, block_named
from quamba_export.calib.nearest_path import nearest_path
from quamba_export.calib.observers.absmax import AbsoluteMaximum
from quamba_export.calib.observers.kinds import observers_from_tables
from quamba_export.calib.observers.observer import Observer, refuse_unknown
from quamba_export.calib.recipes.layer_rules import LayerRule, rule_from_table
from quamba_export.calib.rounding.kinds import rounding_from_table
from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.stored_weight import check_columns, rounded_shapes
from quamba_export.calib.rounding.way import Rounding
from quamba_export.calib.rounding.weight_grid import WeightGrid, grid_of
from quamba_export.calib.sites import SITES, site_names
from quamba_export.runtime.errors import ExitCode, QuambaError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = Path(__file__).parent
MOST_GROUPS = 256
PUBLISHED_GROUPS = 4, 4  # of heads and channels, Quamba2's: as many of them as a model has

_ONE_BILLION = 10**9
_SITES = sorted({site for sites in SITES.values() for site in sites})


@dataclass(frozen=True)
class Recipe:
    """Policy of one calibration.

    observers:           site (short name) or "default" -> observer.
    head_groups:         a, runs of heads with scales of their own, in each of the G groups.
    channel_groups:      b, runs of channels with scales of their own, in each head group.
    rotate_residual:     Hadamard in embedding, in_proj, out_proj and lm_head: the residual stream is rotated.
    rotate_out_proj:     online Hadamard in front of out_proj, its inverse folded into the weight.
    reorder:             sort-and-cluster; x, B, C and ssm_state then have a scale for each group.
    per_channel_weights: int8 weights have a scale for each row instead of one.
    layers:              observers for some layers only; the last rule with one for a site counts.
    weights:             how weights are rounded: in_proj and out_proj, and where it needs no inputs all.
    qformat:             widths of blocks that no rule of `layers` gives any, for exports in w4ax.
    smoothing:           SmoothQuant's alpha in [0, 1] (calib/model/smoothing.py): maxima of activations
                         move into the weights behind them; None for not at all.
    klt:                 a rotation from the data (calib/klt.py) in front of rotate_residual's.
    """

    name: str
    observers: Mapping[str, Observer]
    head_groups: int = 1
    channel_groups: int = 1
    rotate_residual: bool = False
    rotate_out_proj: bool = False
    reorder: bool = False
    per_channel_weights: bool = True
    layers: tuple[LayerRule, ...] = ()
    weights: Rounding = with_default(default_factory=Nearest)
    qformat: str | None = None
    smoothing: float | None = None
    klt: bool = False

    def __post_init__(self) -> None:
        for observers in (self.observers, *(rule.observers for rule in self.layers)):
            refuse_unknown(observers, ["default", *_SITES], f"site in recipe {self.name}")
        if self.qformat is not None:
            block_named(self.qformat, f"qformat of recipe {self.name}")
        self._check_smoothing()
        if (self.head_groups > 1 or self.channel_groups > 1) and not self.reorder:
            raise QuambaError(
                f"recipe {self.name} has groups but no reorder",
                found=f"head_groups = {self.head_groups}, channel_groups = {self.channel_groups}",
                fix="add `reorder = true`: without it the channels of a group have nothing in common",
            )

    def _check_smoothing(self) -> None:
        if self.smoothing is None:
            return
        if not 0 <= self.smoothing <= 1:
            raise QuambaError(
                f"smoothing of recipe {self.name} is out of range",
                found=repr(self.smoothing),
                allowed="a number in [0, 1]: 0 leaves the weights even, 1 the activations",
            )
        if self.rotate_residual or self.klt:
            rotation = "rotate_residual" if self.rotate_residual else "klt"
            raise QuambaError(
                f"recipe {self.name} smooths and rotates the residual stream",
                found=f"smoothing = {self.smoothing}, {rotation} = true",
                allowed="one of them: a norm's weight, which smoothing puts back, does not pass a rotation",
                fix=f"leave out {rotation}, or smoothing",
            )

    def check_groups(self, config: MambaConfig) -> None:
        """Refuse more runs than there are heads or channels to make them of; a run may have any length."""
        asked = self.head_groups, self.channel_groups
        if not self.reorder or asked == PUBLISHED_GROUPS:
            return
        most = config.n_heads // config.n_groups, config.headdim
        if asked[0] > most[0] or asked[1] > most[1]:
            raise QuambaError(
                f"recipe {self.name} has more groups than the model has heads or channels",
                found=f"head_groups = {asked[0]}, channel_groups = {asked[1]}",
                allowed=f"head_groups to {most[0]}, channel_groups to {most[1]} (in each group of B and C)",
                fix=f"use {min(asked[0], most[0])} and {min(asked[1], most[1])}",
            )

    def observer(self, site: str) -> Observer:
        """The observer of `site`, a short name, in layers that no rule is for."""
        return self.observers.get(site) or self.observers.get("default") or AbsoluteMaximum()

    def observers_of(self, config: MambaConfig) -> dict[str, Observer]:
        """The observer of every site of a model, `layers.{i}.{site}`."""
        chosen = {}
        for site in site_names(config):
            _, layer, name = site.split(".")
            rules = [rule for rule in self.layers if rule.matches(int(layer), config.n_layer)]
            found = [observer for rule in rules if (observer := rule.observer(name))]
            chosen[site] = found[-1] if found else self.observer(name)
        return chosen

    def groups(self, config: MambaConfig) -> tuple[int, int] | None:
        """(a, b) for this model: at most the heads in a group of B and C, and the P channels of a head.

        None where the recipe forms no groups and all scales are per tensor.
        """
        if not self.reorder:
            return None
        heads = config.n_heads // config.n_groups
        return min(self.head_groups, heads), min(self.channel_groups, config.headdim)

    def as_table(self) -> dict[str, Any]:
        """The recipe as its TOML file would hold it, with every default written out."""
        table = {field.name: getattr(self, field.name) for field in fields(self)}
        table["observers"] = {site: self.observers[site].as_table() for site in sorted(self.observers)}
        table["layers"] = [rule.as_table() for rule in self.layers]
        if not self.layers:  # as recipes were written before they had rules: digests stay as they are
            del table["layers"]
        table["weights"] = self.weights.as_table()
        for name, default in {"qformat": None, "smoothing": None, "klt": False}.items():
            if table[name] is default:
                del table[name]
        return table

    def rounded_by(self, options: Mapping[str, Any]) -> Recipe:
        """The recipe with these options of `weights` in place of its own; another kind starts anew.

        Raises QuambaError as rounding_from_table does.
        """
        own = self.weights.as_table()
        kept = own if options.get("kind", own["kind"]) == own["kind"] else {}
        return replace(self, weights=rounding_from_table({**kept, **options}))

    def grid(self, bits: int) -> WeightGrid:
        """The grid of a weight with so many bits."""
        return grid_of(bits, one_scale=not self.per_channel_weights, group=self.weights.group_size)

    def blocks(self, n_layer: int) -> tuple[BlockWidths, ...] | None:
        """Widths of every layer in w4ax: the last rule that names any, or the recipe's; None where none does.

        Raises QuambaError where some layers have widths and others none.
        """
        names = []
        for i in range(n_layer):
            rules = [rule.qformat for rule in self.layers if rule.qformat and rule.matches(i, n_layer)]
            names.append(rules[-1] if rules else self.qformat)
        if None in names and any(names):
            raise QuambaError(
                f"recipe {self.name} has widths for some layers only",
                found=f"none for layer {names.index(None)}",
                fix='say what the others have: qformat = "w8a8" above the tables',
            )
        return tuple(BLOCKS[name] for name in names if name) or None

    def rounded_bits(self, n_layer: int) -> tuple[int, ...] | None:
        """Bits that a calibration by this recipe rounds each layer to: its widths' or `weights.bits`;
        None where a later step rounds them.
        """
        if not self.weights.uses_inputs:
            return None
        blocks = self.blocks(n_layer)
        bits = int(self.weights.as_table()["bits"])
        return tuple(block.weight_bits for block in blocks) if blocks else (bits,) * n_layer

    def check_fits(self, config: MambaConfig) -> None:
        """Raise QuambaError where the model cannot be calibrated by this recipe."""
        for observers in (self.observers, *(rule.observers for rule in self.layers)):
            refuse_unknown(observers, ["default", *SITES[config.kind]], f"site of a {config.kind} model")
        for rule in self.layers:
            rule.check_fits(config.n_layer)
        if self.reorder and config.kind != "mamba2":
            raise QuambaError(
                f"recipe {self.name} needs heads",
                found=f"a {config.kind} model: its channels have no heads to cluster",
                allowed="mamba2",
                fix="use --recipe quamba",
            )
        blocks, rounded = self.blocks(config.n_layer), self.rounded_bits(config.n_layer)
        if rounded:
            self.weights.check_widths(rounded)
        bits = [block.weight_bits for block in blocks] if blocks else (rounded or ())
        for name, (_, columns) in rounded_shapes(config).items() if bits else ():
            if bits[int(name.split(".")[1])] == 4:
                check_columns(columns, name)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A shipped recipe by name (quamba, quamba-1b, quamba2), or one of your own by the path of its TOML file.

    Raises QuambaError for an unknown name, a file that is no TOML, an unknown field (naming the nearest known
    one) or a value of the wrong type.
    """
    path, shipped = Path(name_or_path), {recipe.stem: recipe for recipe in RECIPES.glob("*.toml")}
    if path.suffix != ".toml":
        refuse_unknown([str(name_or_path)], shipped, "recipe (a file must end in .toml)", ExitCode.USAGE)
        path = shipped[str(name_or_path)]
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise QuambaError(
            f"no recipe at {path}",
            found="no such file",
            allowed=f"a .toml file, or one of {', '.join(sorted(shipped))}",
            fix=nearest_path(path),
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise QuambaError(f"recipe {path} is not TOML", found=str(error)) from error
    return recipe_from_table({"name": path.stem, **table})


def recipe_from_table(table: Mapping[str, Any]) -> Recipe:
    """The recipe of a parsed TOML or JSON table, its name among the fields."""
    refuse_unknown(table, [field.name for field in fields(Recipe)], "recipe field")
    allowed: dict[str, Any] = {
        "name": str,
        "observers": Mapping,
        "layers": list,
        "weights": Mapping,
        "qformat": str,
        "head_groups": int,
        "channel_groups": int,
        "smoothing": (int, float),
    }
    for field, value in table.items():
        kind = allowed.get(field, bool)
        right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not right or (kind is int and not 1 <= value <= MOST_GROUPS):
            words = {int: f"an integer from 1 to {MOST_GROUPS}", (int, float): "a number in [0, 1]"}
            raise QuambaError(
                f"recipe field {field} has a wrong value",
                found=repr(value),
                allowed=words.get(kind) or kind.__name__.lower(),
            )
    if "name" not in table:
        raise QuambaError(
            "a recipe has no name", found=", ".join(table) or "no field", allowed="a field `name`"
        )
    observers = observers_from_tables(table.get("observers", {}), "observers")
    layers = [rule_from_table(entry, f"layers[{i}]") for i, entry in enumerate(table.get("layers", []))]
    weights = {"weights": rounding_from_table(table["weights"])} if "weights" in table else {}
    return Recipe(**{**table, "observers": observers, "layers": tuple(layers), **weights})


def default_recipe(config: MambaConfig) -> Recipe:
    """The recipe that a model gets unless told otherwise: quamba2 for Mamba-2, quamba for Mamba-1."""
    if config.kind == "mamba2":
        return load_recipe("quamba2")
    layer = config.d_in_proj * config.d_model + config.d_inner * config.d_model
    size = config.n_layer * layer + config.vocab_size * config.d_model  # what is left out is a few percent
    return load_recipe("quamba" if size < _ONE_BILLION else "quamba-1b")
