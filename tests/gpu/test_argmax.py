"""quamba_argmax against numpy's argmax: ties, NaN and infinities, rows of any width and distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.gpu.kernel_library import KernelLibrary

WIDTHS = (1, 2, 3, 7, 31, 1023, 1024, 4097, 8192, 32771, 50280, 50288, 256000)


def expected(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The token of every row, or -1 - token where its logit is not finite."""
    tokens = logits.argmax(-1)
    return np.where(np.isfinite(logits.max(-1)), tokens, -1 - tokens)


def check(library: KernelLibrary, logits: NDArray[np.float32], wider: int = 0, shift: int = 0) -> None:
    """logits (B, V); wider: elements behind a row, shift: elements off alignment, all of them large."""
    batch, vocabulary = logits.shape
    row = vocabulary + wider
    buffer = torch.full((batch * row + shift,), 1e30, device="cuda")
    view = buffer[shift:].view(batch, row)[:, :vocabulary]
    view.copy_(torch.from_numpy(logits))
    found = library.argmax(view).cpu().numpy()
    np.testing.assert_array_equal(
        found, expected(logits), err_msg=f"{batch} x {vocabulary}, {wider}, {shift}"
    )


@pytest.mark.parametrize("vocabulary", WIDTHS)
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_the_first_of_the_largest(library: KernelLibrary, batch: int, vocabulary: int) -> None:
    random = np.random.default_rng([batch, vocabulary])
    for wider, shift in ((0, 0), (4, 0), (3, 1)):
        check(library, random.standard_normal((batch, vocabulary)).astype(np.float32), wider, shift)
        ties = random.integers(-5, 6, (batch, vocabulary)).astype(np.float32)
        check(library, ties, wider, shift)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, -0.0, 0.0])
def test_special_values(library: KernelLibrary, value: float) -> None:
    random = np.random.default_rng(3)
    for vocabulary in (1, 40, 50288):
        logits = -np.abs(random.standard_normal((4, vocabulary))).astype(np.float32)
        logits[0, random.integers(0, vocabulary, 3)] = value
        logits[1] = value
        logits[2, -1] = value
        check(library, logits)


def test_every_position_is_found(library: KernelLibrary) -> None:
    vocabulary = 9001
    for start in range(0, vocabulary, 60):
        places = np.arange(start, min(start + 60, vocabulary))
        logits = np.zeros((places.size, vocabulary), np.float32)
        logits[np.arange(places.size), places] = 1e-30
        check(library, logits)


def test_it_may_be_captured(library: KernelLibrary) -> None:
    logits = torch.zeros((2, 50288), device="cuda")
    tokens = library.argmax(logits)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        library.argmax(logits, tokens)
    logits[0, 40000], logits[1, 7] = 1.0, 2.0
    graph.replay()
    assert tokens.tolist() == [40000, 7]


def test_sizes_that_are_not_taken(library: KernelLibrary) -> None:
    with pytest.raises(AssertionError, match="CUDA error 1"):
        library.argmax(torch.zeros((0, 4), device="cuda"))
