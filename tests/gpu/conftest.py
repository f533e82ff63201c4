"""The plugin library under test, and a share of the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.gpu.kernel_library import KernelLibrary


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", default="1/1", help="I/N: the I-th of N shares of the tests, I from 1 on")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share, shares = map(int, config.getoption("--share", "1/1").split("/"))
    items[:] = items[share - 1 :: shares]


@pytest.fixture(scope="session")
def library() -> KernelLibrary:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU: kernels run on one only (`make gpu-test` there)")
    if "QUAMBA_PLUGINS" not in os.environ:
        pytest.skip("QUAMBA_PLUGINS is not set: `make gpu-test` builds the library and sets it")
    return KernelLibrary(Path(os.environ["QUAMBA_PLUGINS"]))
