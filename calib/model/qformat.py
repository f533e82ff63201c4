"""The widths of an export: bits of the weights, of what flows between ops, of embedding and head.

A name says all of it, in manifests and flags: `w4a8`, `w4a8-embedding8-head4`. Of `w4ax` the recipe of the
calibration says which block has which widths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from quamba_export.runtime.errors import ExitCode, QuambaError

MIXED = "w4ax"
NARROW_PROJECTIONS = ("in_proj", "out_proj")
TABLE_BITS = (4, 8, 16)  # of the embedding and the head; those of fp32 are 32 unless another is asked for

_NAME = re.compile(r"(?P<base>[a-z0-9]+)(-embedding(?P<embedding>\d+))?(-head(?P<head>\d+))?")


@dataclass(frozen=True)
class BlockWidths:
    """Widths of one block.

    weight_bits:     of in_proj and out_proj; x_proj and dt_proj of Mamba-1 have 8 at least. 16, 32: floats.
    activation_bits: 8: int8 codes on calibrated scales. 16, 32: floats, and no scale is used.
    """

    name: str
    weight_bits: Literal[4, 8, 16, 32]
    activation_bits: Literal[8, 16, 32]

    @property
    def conv_state_dtype(self) -> Literal["int8", "float16", "float32"]:
        """The convolution's state holds its last inputs as they are."""
        dtypes: dict[int, Literal["int8", "float16", "float32"]] = {8: "int8", 16: "float16", 32: "float32"}
        return dtypes[self.activation_bits]

    def bits(self, projection: str) -> int:
        """Bits of the weight of `projection`: `in_proj`, or with what stands before, `layers.3.in_proj`."""
        narrow = projection.rpartition(".")[2] in NARROW_PROJECTIONS
        return self.weight_bits if narrow else max(self.weight_bits, 8)


BLOCKS = {
    block.name: block
    for block in (
        BlockWidths("w8a8", 8, 8),
        BlockWidths("w4a8", 4, 8),
        BlockWidths("w4a16", 4, 16),
        BlockWidths("w8a16", 8, 16),
        BlockWidths("fp16", 16, 16),
        BlockWidths("fp32", 32, 32),
    )
}


@dataclass(frozen=True)
class QFormat:
    """Widths of one export.

    block:          of every block; None where the recipe says which has which.
    embedding_bits: 4, 8: codes. 16, 32: floats. head_bits: the same of lm_head.
    """

    block: BlockWidths | None
    embedding_bits: int
    head_bits: int

    @property
    def name(self) -> str:
        """As in manifests: what is not the width of the base is named behind it."""
        own = _table_bits(self.block)
        embedding = f"-embedding{self.embedding_bits}" if self.embedding_bits != own else ""
        head = f"-head{self.head_bits}" if self.head_bits != own else ""
        return f"{self.block.name if self.block else MIXED}{embedding}{head}"

    @property
    def of_floats(self) -> bool:
        """No weight of a block is codes: a calibration has nothing for such a format."""
        return self.block is not None and self.block.weight_bits >= 16

    @property
    def ssm_state_dtype(self) -> Literal["float16", "float32"]:
        """Of the scan's state unless another is asked for."""
        return "float32" if self.block and self.block.activation_bits == 32 else "float16"


MIXABLE = tuple(name for name, block in BLOCKS.items() if block.weight_bits < 16)  # what a recipe may mix


def block_named(name: str, where: str) -> BlockWidths:
    """The widths that a recipe names. Raises QuambaError, naming `where`, for none of MIXABLE."""
    if name not in MIXABLE:
        raise QuambaError(f"{where} is no width of a block", found=repr(name), allowed=", ".join(MIXABLE))
    return BLOCKS[name]


def qformat_named(name: str, *, embedding_bits: int | None = None, head_bits: int | None = None) -> QFormat:
    """The format of that name; bits given instead of those in it.

    Raises QuambaError (exit 2) for a name that is none, and for other bits than TABLE_BITS.
    """
    match = _NAME.fullmatch(name)
    if match is None or match["base"] not in (*BLOCKS, MIXED):
        raise QuambaError(
            "unknown --qformat", found=name, allowed=", ".join((*BLOCKS, MIXED)), code=ExitCode.USAGE
        )
    block = BLOCKS.get(match["base"])
    embedding = _checked_bits("--embedding-bits", embedding_bits, match["embedding"], block)
    head = _checked_bits("--lm-head-bits", head_bits, match["head"], block)
    return QFormat(block, embedding, head)


def _table_bits(block: BlockWidths | None) -> int:
    return max(16, block.activation_bits) if block else 16


def _checked_bits(flag: str, asked: int | None, named: str | None, block: BlockWidths | None) -> int:
    bits = asked if asked is not None else int(named or _table_bits(block))
    if bits not in TABLE_BITS and bits != _table_bits(block):
        allowed = ", ".join(str(bits) for bits in TABLE_BITS)
        raise QuambaError(f"{flag} has no such width", found=str(bits), allowed=allowed, code=ExitCode.USAGE)
    return bits
