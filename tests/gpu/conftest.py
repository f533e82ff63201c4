"""The plugin library under test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.gpu.kernel_library import KernelLibrary


@pytest.fixture(scope="session")
def library() -> KernelLibrary:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU: kernels run on one only (`make gpu-test` there)")
    if "QUAMBA_PLUGINS" not in os.environ:
        pytest.skip("QUAMBA_PLUGINS is not set: `make gpu-test` builds the library and sets it")
    return KernelLibrary(Path(os.environ["QUAMBA_PLUGINS"]))
