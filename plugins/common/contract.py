"""The contract of an op, written once, as data.

An op's folder holds one `SPEC`. The torch op, the ONNX node and its function body, the launcher's C struct
and the TensorRT plugin are made from it or compared with it. Shapes are strings of letters, one a
dimension; a letter stands for the same size wherever it occurs in one call. Letters: B batch, L length, D
d_model, E d_inner, H heads, P headdim, N d_state, G groups, C conv channels, W conv width, K and M columns
and rows of a weight, S entries of a scale table, V vocabulary (padded). `K/2` is half of K, rounded up; an
input before it says what K is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from quamba_export.runtime.errors import QuambaError

DType = Literal["int8", "int32", "float16", "float32"]
Size = int | str

FLOAT32_SMALLEST, FLOAT32_LARGEST = 2.0**-126, (2 - 2**-23) * 2.0**127  # normal numbers
RANGES = {  # of an attribute's values: lowest, highest, in words
    "positive": (FLOAT32_SMALLEST, FLOAT32_LARGEST, "finite and above 0 in fp32"),
    "any": (-FLOAT32_LARGEST, FLOAT32_LARGEST, "finite in fp32"),
    "flag": (0, 1, "0 or 1"),
    "count": (0, 2**31 - 1, "0 or more"),
}


@dataclass(frozen=True)
class Tensor:
    """One input or output: its name, allowed dtypes and symbolic shape; `aliases` names the input it
    overwrites.
    """

    name: str
    dtypes: DType | tuple[DType, ...]
    shape: str
    aliases: str | None = None

    @property
    def allowed(self) -> tuple[DType, ...]:
        return (self.dtypes,) if isinstance(self.dtypes, str) else self.dtypes

    @property
    def dims(self) -> tuple[str, ...]:
        return tuple(self.shape.split())


@dataclass(frozen=True)
class Attr:
    """One attribute, always required and held in fp32 where it is a float.

    values: "positive" (a scale, an epsilon, a count): above zero, and a normal number, so that fp32 neither
    loses it nor divides by zero; "any" finite number; a "flag", 0 or 1; a "count", 0 or more.
    """

    name: str
    type: Literal["float", "int"]
    values: Literal["positive", "any", "flag", "count"] = "positive"


@dataclass(frozen=True)
class OpSpec:
    """Name, inputs, outputs and attributes of one op of the ONNX domain `quamba`.

    multiples: pairs (letter, part): the size is a multiple of `part`, a letter, an attribute or a number.
    bound: how far two implementations' float outputs may lie apart, as a share of what the op gives for the
    absolute values of its inputs (of a sum of products: the sum of their absolute values). 0: the same bits.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attrs: tuple[Attr, ...] = ()
    multiples: tuple[tuple[str, str], ...] = ()
    bound: float = 0.0
    domain: str = "quamba"
    version: int = 1

    def __post_init__(self) -> None:
        names = [t.name for t in self.inputs] + [a.name for a in self.attrs]
        if len(names) != len(set(names)):
            raise ValueError(f"{self.name}: an input or attribute name occurs twice in {names}")
        for output in self.outputs:
            if output.aliases is not None and output.aliases not in {t.name for t in self.inputs}:
                raise ValueError(f"{self.name}: output {output.name} aliases unknown input {output.aliases}")

    def bind(
        self,
        dtypes: Sequence[str],
        shapes: Sequence[Sequence[Size]],
        attrs: Mapping[str, float | int],
    ) -> dict[str, Size]:
        """Check one call against the contract; return the size bound to every letter.

        dtypes, shapes: one entry an input, in order; a size may be a string where it is only known by name.
        Raises QuambaError naming the op and the offending input or attribute.
        """
        if len(shapes) != len(self.inputs):
            self._refuse(
                "wrong number of inputs", f"{len(shapes)} inputs", ", ".join(t.name for t in self.inputs)
            )
        self._check_attrs(attrs)
        sizes: dict[str, Size] = {}
        for tensor, dtype, shape in zip(self.inputs, dtypes, shapes, strict=True):
            if dtype not in tensor.allowed:
                self._refuse(f"input '{tensor.name}' has the wrong dtype", dtype, " or ".join(tensor.allowed))
            if len(shape) != len(tensor.dims):
                self._refuse(
                    f"input '{tensor.name}' has the wrong rank", str(tuple(shape)), f"({tensor.shape})"
                )
            for letter, size in zip(tensor.dims, shape, strict=True):
                self._bind_letter(sizes, letter, size, tensor)
        self._check_multiples(sizes, attrs)
        return sizes

    def _bind_letter(self, sizes: dict[str, Size], letter: str, size: Size, tensor: Tensor) -> None:
        base, offset, divisor = _split_dimension(letter)
        if divisor > 1:
            self._check_part(sizes[base], letter, size, tensor)
            return
        if isinstance(size, str):
            if offset:
                self._refuse(f"input '{tensor.name}' needs a known size for {letter}", size, "an integer")
        elif size < 1:
            self._refuse(f"input '{tensor.name}' is empty", f"{letter} = {size}", "1 or more")
        else:  # an int, or torch's symbolic one
            size = size - offset
        known = sizes.setdefault(base, size)
        if known != size:
            self._refuse(
                f"input '{tensor.name}' ({tensor.shape}) disagrees with the inputs before it",
                f"{base} = {size}",
                f"{base} = {known}",
            )

    def _check_part(self, whole: Size, letter: str, size: Size, tensor: Tensor) -> None:
        """`K/2`: K is known by now."""
        if isinstance(size, int) and size < 1:
            self._refuse(f"input '{tensor.name}' is empty", f"{letter} = {size}", "1 or more")
        if isinstance(whole, str) or isinstance(size, str):
            self._refuse(
                f"input '{tensor.name}' needs known sizes for {letter}", f"{whole}, {size}", "integers"
            )
        elif size != (expected := -(-whole // _split_dimension(letter)[2])):
            self._refuse(
                f"input '{tensor.name}' ({tensor.shape}) disagrees with the inputs before it",
                f"{letter} = {size}",
                f"{letter} = {expected}",
            )

    def _check_attrs(self, attrs: Mapping[str, float | int]) -> None:
        wanted = {a.name: a for a in self.attrs}
        if set(attrs) != set(wanted):
            self._refuse(
                "wrong attributes", ", ".join(sorted(attrs)) or "none", ", ".join(sorted(wanted)) or "none"
            )
        for name, value in attrs.items():
            if wanted[name].type == "int" and not isinstance(value, int):
                self._refuse(f"attribute '{name}' has the wrong type", repr(value), "an integer")
            low, high, allowed = RANGES[wanted[name].values]
            if not low <= value <= high:
                self._refuse(f"attribute '{name}' is out of range", repr(value), allowed)

    def _check_multiples(self, sizes: Mapping[str, Size], attrs: Mapping[str, float | int]) -> None:
        for letter, part in self.multiples:
            whole = sizes[letter]
            divisor = int(part) if part.isdigit() else {**sizes, **attrs}[part]
            if not isinstance(whole, str) and not isinstance(divisor, str) and whole % divisor != 0:
                self._refuse(
                    f"{letter} does not divide by {part}", f"{letter} = {whole}", f"a multiple of {divisor}"
                )

    def output_shapes(self, sizes: Mapping[str, Size]) -> list[tuple[Size, ...]]:
        """Shapes of the outputs for the sizes that `bind` returned."""
        return [tuple(_size_of(letter, sizes) for letter in t.dims) for t in self.outputs]

    def output_dtypes(self, dtypes: Sequence[str]) -> list[str]:
        """Dtypes of the outputs: an aliasing output takes the dtype of its input."""
        by_name = {t.name: d for t, d in zip(self.inputs, dtypes, strict=True)}
        return [by_name[t.aliases] if t.aliases else t.allowed[0] for t in self.outputs]

    def _refuse(self, what: str, found: str, allowed: str) -> None:
        raise QuambaError(
            f"{self.name}: {what}", found=found, allowed=allowed, fix=f"see plugins/{self.name}/README.md"
        )


def _split_dimension(letter: str) -> tuple[str, int, int]:
    """`W-1` is (W, -1, 1), `K/2` is (K, 0, 2)."""
    match = re.fullmatch(r"([A-Z])([+-]\d+)?(?:/(\d+))?", letter)
    if match is None:
        raise ValueError(f"bad dimension {letter!r} in a contract")
    return match[1], int(match[2] or 0), int(match[3] or 1)


def _size_of(letter: str, sizes: Mapping[str, Size]) -> Size:
    base, offset, divisor = _split_dimension(letter)
    size = sizes[base]
    return size if isinstance(size, str) else -(-(size + offset) // divisor)
