"""The widths of an export: bits of the large projections' weights, and of what flows between ops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quamba_export.runtime.errors import ExitCode, QuambaError

INT4_PROJECTIONS = ("in_proj", "out_proj")


@dataclass(frozen=True)
class QFormat:
    """Widths of one export.

    weight_bits:     of in_proj and out_proj; x_proj and dt_proj of Mamba-1 have 8 always.
    activation_bits: 8: int8 codes on calibrated scales. 16: fp16, and no scale is used.
    """

    name: str
    weight_bits: Literal[4, 8]
    activation_bits: Literal[8, 16]

    @property
    def conv_state_dtype(self) -> Literal["int8", "float16"]:
        """The convolution's state holds its last inputs as they are."""
        return "int8" if self.activation_bits == 8 else "float16"

    def bits(self, projection: str) -> int:
        """Bits of the weight of `projection`: `in_proj`, or with what stands before, `layers.3.in_proj`."""
        return self.weight_bits if projection.rpartition(".")[2] in INT4_PROJECTIONS else 8


QFORMATS = {
    qformat.name: qformat
    for qformat in (QFormat("w8a8", 8, 8), QFormat("w4a8", 4, 8), QFormat("w4a16", 4, 16))
}


def qformat_named(name: str) -> QFormat:
    """Raises QuambaError (exit 2) for a name that is none of QFORMATS."""
    if name not in QFORMATS:
        raise QuambaError("unknown --qformat", found=name, allowed=", ".join(QFORMATS), code=ExitCode.USAGE)
    return QFORMATS[name]
