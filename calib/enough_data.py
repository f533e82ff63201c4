"""Whether samples hold as many values as a recipe's observers need, known before one of them is read."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.observers.observer import Observer
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.calib.sites import scale_shape
from quamba_export.runtime.errors import QuambaError


def check_enough(recipe: Recipe, config: MambaConfig, samples: int, length: int) -> None:
    """Raise QuambaError for the first site whose observer needs more values than the samples give it."""
    for shortage in shortages(recipe, config, samples, length):
        options = ", ".join(f"{name} {value}" for name, value in shortage.observer.as_table().items())
        raise QuambaError(
            f"the data are too short for the observer of site '{shortage.site}'",
            found=f"{shortage.found} values a scale in {shortage.counted}",
            allowed=f"{shortage.needed} or more for {options}",
            fix=f"give {', or '.join(shortage.ways)}",
        )


@dataclass(frozen=True)
class Shortage:
    """A site with fewer values for each of its scales, on average, than its observer needs.

    counted: the samples that `found` counts, in words.
    ways:    what there would be enough with.
    """

    site: str
    observer: Observer
    found: int
    needed: int
    counted: str
    ways: list[str]


def shortages(recipe: Recipe, config: MambaConfig, samples: int, length: int) -> list[Shortage]:
    """Of a recipe that fits the model; site by site."""
    short = []
    for site, observer in recipe.observers_of(config).items():
        name, needed, each = site.split(".")[2], observer.least_values, observer.of_each_sample
        scales = prod(scale_shape(config, name, recipe.groups(config)))
        found = (1 if each else samples) * values_of(config, name, length) // scales
        if found < needed:
            state = name == "ssm_state"  # as large after a long sample as after a short one
            tokens = "any length" if state else f"{length} tokens"
            counted = f"{'each sample' if each else f'{samples} samples'} of {tokens}"
            ways = [] if each else ["more samples (--calib-size)"]
            ways += [] if state else ["longer samples (--calib-seqlen)"]
            ways += ["this site an observer that needs fewer values"]
            short.append(Shortage(site, observer, found, needed, counted, ways))
    return short


def values_of(config: MambaConfig, site: str, length: int) -> int:
    """Values of one sample of `length` tokens at a site, a short name."""
    groups = max(config.n_groups, 1)
    widths = {
        "norm_out": config.d_model,
        **dict.fromkeys(("z", "conv_in", "conv_in_x", "x", "out_proj_in"), config.d_inner),
        **dict.fromkeys(("B", "C", "conv_in_B", "conv_in_C"), groups * config.d_state),
        "dt_low": config.dt_rank,
        "dt": config.d_inner if config.kind == "mamba1" else config.n_heads,
    }
    if site == "ssm_state":  # seen after the last token
        return config.d_inner * config.d_state
    return length * widths[site]
