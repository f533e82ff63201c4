"""The decay of a scan by a table: every exponent, the hardest inputs, and the table itself."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from host_math import host_math, pointer

# Every x < 0, by its bits, whose exp lies within 2^-46 of a middle between two floats, the nearest first
# (2^-52.6): found with 80-bit exponentials of all of them.
HARDEST_DECAYS = """
    c16912cd bbf0edf1 bae0e25c b3000000 bc2a461a bbb70ee8 c13d6631 bcb8f40f c0781533 b7f4c0ea b7c9c09f
    bfbfa14b ba7242a6 bdb393eb bf76fd92 bf81eadf c0382e72 b6b50020 b616000b b5d4000b b3000001 b3c00001
    b4200001 b4b00002 bce017bb bb9cbb8e b3c00000 bb9af86a bdf128eb bb8d98f5 c159fa1e be67b559 bee0e6cd
    c03359cb ba525799 badd0ab0 b9584db6 beed01af be5f667d c236e4b4 b6d9002e b59c0006 b3000002 b4600002
    b5480005 c2ae7135 c1963bdb bfab7ce4 bda7d6c2 bffc842d be715290 bf157c82 c2abb454
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_math(tmp_path_factory.mktemp("host_math"))


def compared_decays(kernels: ctypes.CDLL, first: int, last: int, stride: int = 1) -> list[int]:
    """compare_decays() of host_math.cpp over the floats whose bits are first .. last."""
    counts = np.zeros(4, np.int64)
    kernels.compare_decays(*map(ctypes.c_uint32, (first, last, stride)), ctypes.c_void_p(counts.ctypes.data))
    return counts.tolist()


@pytest.mark.parametrize(
    ("first", "last", "stride"),
    [
        (-0.0, -np.inf, 257),  # of every exponent; a stride of 1, every input there is, takes some minutes
        (-0.5, -4.0, 7),  # of a trained model
        (-87.0, -104.5, 1),  # where fp32 becomes subnormal, then zero
        (-(2.0**-26), -(2.0**-24), 16),  # about the middle between 1 and the float before it
    ],
)
def test_decay_by_a_table_has_the_same_bits(
    kernels: ctypes.CDLL, first: float, last: float, stride: int
) -> None:
    ends = np.array([first, last], np.float32).view(np.uint32).tolist()
    wide_differ, narrow_differ, open_, count = compared_decays(kernels, *ends, stride)
    assert count > 100_000
    assert wide_differ == narrow_differ == 0
    assert open_ < count / 1000


def test_decay_by_a_table_decides_the_hardest_cases(kernels: ctypes.CDLL) -> None:
    for x in (int(word, 16) for word in HARDEST_DECAYS.split()):
        assert compared_decays(kernels, x, x) == [0, 0, 1, 1], hex(x)  # left open by fp32 pairs
        assert compared_decays(kernels, x - 1, x + 1)[:2] == [0, 0], hex(x)
    for nan in (0x7FC00000, 0xFFC00000):
        assert compared_decays(kernels, nan, nan)[:2] == [0, 0]


def test_powers_of_the_decay_table(kernels: ctypes.CDLL) -> None:
    found = np.empty(32)
    kernels.decay_powers(pointer(found))
    assert found.tolist() == [2.0 ** (j / 32) for j in range(32)]
