"""What it costs to find a scale: index and scale tables of a calibrated model on a GPU and on an ASIC.

Quamba2 keeps, for each of G groups, the ends of a runs of heads and of b runs of channels in each, and a
scale for each run (int32 and fp32). A lookup compares with run ends: the group's, the heads', the channels'.
The ASIC's constants and what is taken from the study stand in calib/asic_7nm.toml.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import quamba_export.calib
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.exporter.model_sizes import token_bytes
from quamba_export.runtime.errors import QuambaError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONSTANTS = Path(quamba_export.calib.__file__).parent / "asic_7nm.toml"
WORD = 4  # bytes of a run end and of a scale
TABLE_ENTRY = 1  # byte of a flat table: the number of a channel's scale


@dataclass(frozen=True)
class Asic:
    """Constants of a chip; all above 0."""

    sram_mm2_per_kib: float
    sram_pj_per_bit: float
    mac_pj: float
    parallel_area: float
    sram_access_ns: float
    comparison_ns: float


@dataclass(frozen=True)
class Tables:
    """Sizes that the cost depends on.

    groups, head_runs, channel_runs: G, a, b; 1, 1, 1 is one scale a tensor, with nothing to look up.
    """

    layers: int
    channels: int  # of x
    conv_width: int
    groups: int
    head_runs: int
    channel_runs: int

    @property
    def scales(self) -> int:
        """Scales of x in a layer."""
        return self.groups * self.head_runs * self.channel_runs

    @property
    def index_bytes(self) -> int:
        """Run ends of a layer: (G, a) and (G, a, b) int32."""
        return 0 if self.scales == 1 else WORD * (self.groups * self.head_runs + self.scales)

    @property
    def scale_bytes(self) -> int:
        """Of a layer."""
        return WORD * self.scales

    @property
    def comparisons(self) -> int:
        """Of one lookup at the most: with the ends of groups (of more than one), heads and channels."""
        if self.scales == 1:
            return 0
        return (self.groups if self.groups > 1 else 0) + self.head_runs + self.channel_runs


@dataclass(frozen=True)
class Cost:
    """One organisation of the tables. Bytes are of all layers; energy and latency of one lookup."""

    organisation: str
    index_bytes: int
    scale_bytes: int
    comparisons: int
    area_mm2: float
    energy_nj: float
    latency_ns: float

    @property
    def bytes(self) -> int:
        return self.index_bytes + self.scale_bytes


def load_asic(path: Path = CONSTANTS) -> Asic:
    """Constants of a TOML file. Raises QuambaError naming the key that is missing, unknown or not above 0."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise QuambaError(f"no constants at {path}", found="no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise QuambaError(f"{path} is not TOML", found=str(error)) from error
    known = [field.name for field in fields(Asic)]
    if set(table) != set(known):
        found = ", ".join(sorted(set(table) ^ set(known)))
        raise QuambaError(
            f"{path} has other keys", found=f"too many or missing: {found}", allowed=", ".join(known)
        )
    for key, value in table.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e12:
            raise QuambaError(f"{path}: {key} is no size", found=repr(value), allowed="a number above 0")
    return Asic(**{key: float(value) for key, value in table.items()})


def tables_of(config: MambaConfig, recipe: Recipe) -> Tables:
    """The sizes of a calibrated model."""
    runs = recipe.groups(config)
    groups = config.n_groups if runs else 1
    return Tables(config.n_layer, config.d_inner, config.d_conv, groups, *(runs or (1, 1)))


def share_of_token(cost: Cost, config: MambaConfig) -> float:
    """On a GPU: tables' bytes to the bytes that a token of a W8A8 model reads, by the shapes."""
    found = token_bytes(config)
    return cost.bytes / (found.weights + found.state)


def conv_energy_nj(tables: Tables, channels: int, asic: Asic) -> float:
    """Of the convolution's products for one token, what a lookup's energy is held against."""
    return channels * tables.conv_width * asic.mac_pj / 1000


def organisations(tables: Tables, asic: Asic) -> list[Cost]:
    """The published tables and the ways out of their cost."""
    halved = Tables(
        -(-tables.layers // 2),
        tables.channels,
        tables.conv_width,
        tables.groups,
        tables.head_runs,
        tables.channel_runs,
    )
    coarse = Tables(
        tables.layers,
        tables.channels,
        tables.conv_width,
        tables.groups,
        min(2, tables.head_runs),
        min(2, tables.channel_runs),
    )
    return [
        _searched("run ends, sequential search", tables, asic),
        _searched("run ends, parallel search", tables, asic, parallel=True),
        _searched("2 x 2 runs, sequential search", coarse, asic),
        _flat("flat table, a byte a channel", tables, asic),
        _searched("run ends in half of the layers", halved, asic),
    ]


def _searched(name: str, tables: Tables, asic: Asic, parallel: bool = False) -> Cost:
    """A lookup reads every run end that it compares with, and one scale."""
    index, scales = tables.layers * tables.index_bytes, tables.layers * tables.scale_bytes
    area = (index + scales) / 1024 * asic.sram_mm2_per_kib
    bits = 8 * WORD * (tables.comparisons + 1)
    search = asic.sram_access_ns if parallel else tables.comparisons * asic.comparison_ns
    return Cost(
        name,
        index,
        scales,
        tables.comparisons,
        area * (asic.parallel_area if parallel else 1),
        bits * asic.sram_pj_per_bit / 1000,
        asic.sram_access_ns + search,
    )


def _flat(name: str, tables: Tables, asic: Asic) -> Cost:
    """One access: an entry names the scale, and the scales of a layer stand in registers."""
    index, scales = tables.layers * tables.channels * TABLE_ENTRY, tables.layers * tables.scale_bytes
    area = (index + scales) / 1024 * asic.sram_mm2_per_kib
    bits = 8 * (TABLE_ENTRY + WORD)
    energy = bits * asic.sram_pj_per_bit / 1000
    return Cost(name, index, scales, 0, area, energy, asic.sram_access_ns)
