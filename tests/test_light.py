"""The runtime is light: what it weighs, and what importing it brings along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from runtime_size import MB, sizes

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "onnx",
    "transformers",
    "onnxruntime",
    "starlette",
    "uvicorn",
    "jinja2",
    "prometheus_client",
)
LARGEST_MB = {"runtime": 180, "runtime-gpu": 160, "serve": 20}  # 172, 138, 18: x86-64 Linux, Python 3.11


@pytest.mark.parametrize("extra", LARGEST_MB)
def test_an_extra_weighs_what_it_should(extra: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(sizes(extra))
    assert [name for name, size in found if size is None] == []
    total = sum(size or 0 for _, size in found) / MB
    with capsys.disabled():
        largest = ", ".join(f"{name} {(size or 0) / MB:.0f}" for name, size in found[:4])
        print(f"\nthe extra {extra} has {total:.0f} MB installed ({largest})")
    assert total < LARGEST_MB[extra]


@pytest.mark.parametrize("extra", ["runtime", "runtime-gpu"])
def test_what_deploy_sends_weighs_less_than_the_aim(extra: str) -> None:
    """With serve; 153 and 118 MB: x86-64 Linux, Python 3.11."""
    assert sum(size or 0 for _, size in sizes(extra, "serve", deployed=True)) / MB < 160


def test_reading_a_bundle_and_deciding_tokens_needs_no_heavy_module() -> None:
    modules = "bundle, chat, batch_file, manifest, decoder, generate, saved_states"
    program = (
        f"import sys, quamba_export.runtime.serve.scheduler; from quamba_export.runtime import {modules}; "
    )
    program += f"print(sorted({{'typer', 'rich', *{HEAVY!r}}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_the_command_line_starts_without_the_servers_libraries() -> None:
    program = f"import sys, quamba_export.exporter.cli; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_one_module_opens_bundles_and_one_talks_to_cuda() -> None:
    """And pycuda's twin of the latter, where cuda-bindings are not to be had."""
    sources = {path.name: path.read_text() for path in (ROOT / "runtime").rglob("*.py")}
    for words, allowed in (
        (("HeldFiles(",), {"manifest.py"}),  # whose open_folder is the only way in
        (("cuda.bindings", '"pycuda.', "import pycuda", "libcuda"), {"cuda.py", "cuda_pycuda.py"}),
    ):
        assert {name for name, text in sources.items() if any(word in text for word in words)} == allowed
