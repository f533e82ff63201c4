"""Loading a plan: what a runtime is allowed, and what is said of a plan that it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from refusals import refused

from quamba_export.runtime import tensorrt_plan
from quamba_export.runtime.tensorrt_library import Messages
from quamba_export.runtime.tensorrt_plan import Plan


class FakeRuntime:
    """TensorRT's Runtime as far as Plan calls it; takes plans that begin with b"plan"."""

    made: ClassVar[list[FakeRuntime]] = []

    def __init__(self, log: object) -> None:
        self.engine_host_code_allowed = False
        self.made.append(self)

    def deserialize_cuda_engine(self, content: bytes) -> SimpleNamespace | None:
        if content == b"plan with host code" and not self.engine_host_code_allowed:
            return None
        return SimpleNamespace(create_execution_context=object) if content.startswith(b"plan") else None


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    trt = SimpleNamespace(Runtime=FakeRuntime, __version__="10.6.0")
    monkeypatch.setattr(FakeRuntime, "made", [])
    monkeypatch.setattr(tensorrt_plan, "import_tensorrt", lambda: trt)
    monkeypatch.setattr(tensorrt_plan, "logger", lambda: (None, Messages()))
    return tmp_path / "decode.engine"


def open_plan(path: Path, content: bytes, **options: Any) -> FakeRuntime:
    path.write_bytes(content)
    Plan(path, SimpleNamespace(), **options)  # type: ignore[arg-type]
    return FakeRuntime.made[-1]


def test_only_a_version_compatible_plan_may_bring_host_code(path: Path) -> None:
    assert open_plan(path, b"plan with host code", version_compatible=True).engine_host_code_allowed
    assert not open_plan(path, b"plan").engine_host_code_allowed
    with refused("TensorRT 10.6.0 does not load", "no reason given", code=5):
        open_plan(path, b"plan with host code")


def test_a_plan_that_tensorrt_refuses_is_named(path: Path) -> None:
    with refused("decode.engine", "build the bundle on this machine", code=5):
        open_plan(path, b"something else")
