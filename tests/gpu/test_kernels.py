"""Every kernel against its op's reference: all cases of tests/op_cases, then random shapes.

Bit for bit, or within the bound where the contract states one.

Needs a GPU and QUAMBA_PLUGINS, the path of libquamba_plugins.so: `make gpu-test`.
"""

from __future__ import annotations

import os
from itertools import islice

import numpy as np
import pytest
import torch
from op_cases import COMPILED, Case, int4
from op_cases.drawing import draw
from op_implementations import assert_within_bound, run_reference, ulps

from quamba_export.plugins.common.registry import kernel_names
from tests.gpu.kernel_library import KernelLibrary
from tests.gpu.random_shapes import random_cases

RANDOM_SHAPES = int(os.environ.get("QUAMBA_RANDOM_SHAPES", "1000"))  # an op
TILE_BORDERS = (9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 511, 512, 513)
ALIGNMENTS = ((0, 0), (48, 16), (5, 1))  # elements behind a row, elements off alignment


def compare(library: KernelLibrary, case: Case, alignment: tuple[int, int]) -> int:
    """The number of differing outputs; integers and carried states may not differ at all.

    An fp32 y may be one unit in the last place off where fp64's last bit decides a rounding: exp of the
    device and of the host are both within one unit of fp64, not equal. Where the contract states a bound,
    that one holds instead.
    """
    found, reference = library.run(case, wider=alignment[0], shift=alignment[1]), run_reference(case)
    if case.spec.bound:
        assert_within_bound(case, reference, found)
        return 0
    differing = 0
    for tensor, expected, actual in zip(case.spec.outputs, reference, found, strict=True):
        distance = ulps(np.ascontiguousarray(expected), np.ascontiguousarray(actual))
        worst, count = int(distance.max()), int(np.count_nonzero(distance))
        assert worst <= (0 if expected.dtype == np.int8 else 1), (
            f"{case} {tensor.name}: {worst} apart, {count} differ"
        )
        differing += count
    return differing


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_a_kernel_gives_the_bits_of_its_reference(library: KernelLibrary, case: Case) -> None:
    for alignment in ALIGNMENTS:
        compare(library, case, alignment)


@pytest.mark.parametrize("rows", TILE_BORDERS)
@pytest.mark.parametrize(
    "op", ["Int4Linear", "Int4RequantizedLinear", "HalfInt4Linear", "HalfInt8Projection"]
)
def test_row_counts_around_the_borders_of_tiles(library: KernelLibrary, op: str, rows: int) -> None:
    case_of = draw if "Int8" in op else int4.case_of
    for columns, M in ((416, 130), (1280, 257)):
        sizes = {"B": 1, "L": rows, "K": columns, "M": M}
        for alignment in ALIGNMENTS:
            compare(library, case_of(op, f"{rows}_rows", sizes), alignment)


@pytest.mark.parametrize("op", kernel_names())
def test_random_shapes(library: KernelLibrary, op: str) -> None:
    torch.set_num_threads(4)
    values = differing = 0
    for i, case in enumerate(islice(random_cases(op, seed=1), RANDOM_SHAPES)):
        differing += compare(library, case, ALIGNMENTS[i % len(ALIGNMENTS)])
        values += sum(int(array.size) for array in case.inputs.values())
    print(f"{op}: {RANDOM_SHAPES} shapes, {differing} fp32 values one unit apart")
    assert differing <= values // 1_000_000 + 1
