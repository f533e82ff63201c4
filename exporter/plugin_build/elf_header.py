"""What kind of file a library is, by the first bytes of it: for which processor, and whether one at all."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

MAGIC, HEADER_BYTES = b"\x7fELF", 20
WIDTHS = {1: "32-bit", 2: "64-bit"}  # EI_CLASS
BYTE_ORDERS: dict[int, Literal["little", "big"]] = {1: "little", 2: "big"}  # EI_DATA
KINDS = {1: "object file", 2: "program", 3: "shared library"}  # e_type
MACHINES = {3: "x86", 62: "x86-64", 183: "aarch64"}  # e_machine
AARCH64_LIBRARY = "a 64-bit aarch64 shared library"


def elf_kind(path: Path) -> str:
    """In words: "a 64-bit aarch64 shared library", or "no ELF file". Source: the ELF-64 specification."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(MAGIC) or header[5] not in BYTE_ORDERS:
        return "no ELF file"
    kind, machine = (int.from_bytes(header[at : at + 2], BYTE_ORDERS[header[5]]) for at in (16, 18))
    width = WIDTHS.get(header[4], "strange")
    return f"a {width} {MACHINES.get(machine, f'ELF machine {machine}')} {KINDS.get(kind, 'ELF file')}"
