"""`doctor` on a real GPU: it launches a kernel of the library under test, and runs a TensorRT bundle.

QUAMBA_PLUGINS: a library with the plugins, loaded into TensorRT's registry; QUAMBA_BUNDLE: a bundle built for
this GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.gpu.kernel_library import KernelLibrary

DOCTOR = [sys.executable, "-m", "quamba_export.exporter.cli", "doctor", "--json"]


def checks(*arguments: str) -> dict[str, Any]:
    done = subprocess.run([*DOCTOR, *arguments], capture_output=True, text=True, check=False)
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_a_kernel_is_launched(library: KernelLibrary) -> None:
    found = checks("--plugins", os.environ["QUAMBA_PLUGINS"])
    if found["plugins"]["state"] != "ok":
        pytest.skip(f"no TensorRT with these plugins: {found['plugins']['found']}")
    assert found["GPU"]["state"] == "ok", found["GPU"]
    assert found["kernel"]["state"] == "ok", found["kernel"]


def test_a_bundle_is_run() -> None:
    if "QUAMBA_BUNDLE" not in os.environ:
        pytest.skip("no CUDA GPU with a bundle: QUAMBA_BUNDLE names none")
    found = checks("--for", "gpu-run", "--bundle", os.environ["QUAMBA_BUNDLE"])
    for name in ("plugins", "kernel", "model"):
        assert found[name]["state"] == "ok", found[name]
