"""`--provider cuda` as far as a CPU can tell: refusals, inputs bound for every run, nodes by provider.

The stand-in for onnxruntime-gpu runs CUDA sessions on the CPU and keeps ONNX Runtime's rule that bites here:
an input whose reader sits elsewhere is copied when it is bound, so what changes afterwards is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tiny_recurrent import LAYERS, V, state_table, write_tiny_export

from quamba_export.runtime import engine_ort, ort_session, ort_states
from quamba_export.runtime.bundle import open_bundle, open_model
from quamba_export.runtime.engine import prefill
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import read_manifest
from quamba_export.runtime.ort_placement import Placement, place_nodes, placements

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
BOTH = [CUDA, CPU]


class CopyingBinding:
    """An IOBinding that copies what is bound from host memory, and takes "cuda" for the CPU."""

    def __init__(self, binding: Any) -> None:
        self.binding, self.kept = binding, {}

    def bind_input(self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int) -> None:
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        view = (np.ctypeslib.ctypes.c_char * nbytes).from_address(address)
        copy = self.kept[name] = np.frombuffer(bytes(view), dtype).reshape(shape).copy()
        self.binding.bind_input(name, "cpu", 0, dtype, shape, copy.ctypes.data)

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        copy = self.kept[name] = onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy().copy())
        self.binding.bind_ortvalue_input(name, copy)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.binding, name)


class FakeOnnxRuntime:
    """onnxruntime-gpu; `starts` tells whether a session really gets its CUDA provider."""

    def __init__(self, available: list[str], *, starts: bool = True) -> None:
        self.available, self.starts = available, starts
        self.devices: set[str] = set()
        self.OrtValue = SimpleNamespace(
            ortvalue_from_numpy=self.on_cpu(onnxruntime.OrtValue.ortvalue_from_numpy),
            ortvalue_from_shape_and_type=self.on_cpu(onnxruntime.OrtValue.ortvalue_from_shape_and_type),
        )

    def on_cpu(self, make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any) -> Any:
            self.devices.add(arguments[-2])
            return make(*arguments[:-2], "cpu", 0)

        return made

    def get_available_providers(self) -> list[str]:
        return self.available

    def preload_dlls(self) -> None:
        print("looking for libraries")

    def InferenceSession(self, path: str, options: Any, *, providers: list[Any], enable_fallback: int) -> Any:
        assert enable_fallback == 0
        self.asked = providers
        session = onnxruntime.InferenceSession(path, options, providers=[CPU])
        names = [name if isinstance(name, str) else name[0] for name in providers]
        active = names if self.starts else [CPU]
        return SimpleNamespace(
            get_providers=lambda: active,
            get_inputs=session.get_inputs,
            get_outputs=session.get_outputs,
            io_binding=lambda: CopyingBinding(session.io_binding()),
            run_with_iobinding=lambda binding: session.run_with_iobinding(binding.binding),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeOnnxRuntime], FakeOnnxRuntime]:
    def installed(fake: FakeOnnxRuntime) -> FakeOnnxRuntime:
        for module in (engine_ort, ort_session, ort_states):
            monkeypatch.setattr(module, "import_onnxruntime", lambda: fake)
        return fake

    return installed


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_export(tmp_path_factory.mktemp("cuda") / "export")


def test_without_the_provider_it_is_refused_with_the_list_and_the_fix(install: Any, export: Path) -> None:
    install(FakeOnnxRuntime(["AzureExecutionProvider", CPU]))
    with pytest.raises(QuambaError, match=f"has no {CUDA}") as caught:
        open_bundle(export, provider="cuda")
    assert caught.value.found == f"AzureExecutionProvider, {CPU}"
    assert "onnxruntime-gpu" in caught.value.fix
    assert caught.value.code is ExitCode.INCOMPATIBLE


def test_a_session_that_fell_back_to_the_cpu_is_refused(install: Any, export: Path) -> None:
    install(FakeOnnxRuntime(BOTH, starts=False))
    with pytest.raises(QuambaError, match=f"could not start {CUDA}") as caught:
        open_bundle(export, provider="cuda")
    assert (caught.value.found, caught.value.code) == (CPU, ExitCode.INCOMPATIBLE)


def test_cuda_gives_what_the_cpu_gives_though_inputs_are_copied_when_bound(
    install: Any, export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = np.random.default_rng(0).integers(0, V, (2, 9))
    on_cpu = OrtEngine(export / "model.onnx", state_table(), V)
    wanted, states = prefill(on_cpu, ids, chunk=1)
    fake = install(FakeOnnxRuntime(BOTH))
    engine = OrtEngine(export / "model.onnx", state_table(), V, provider="cuda")
    found, after = prefill(engine, ids, chunk=1)
    assert np.array_equal(found, wanted)
    assert all(np.array_equal(after[name], states[name]) for name in states)
    kept = after.fork()
    assert np.array_equal(engine.run(ids[:, :1], after)[0], engine.run(ids[:, :1], kept)[0])
    assert fake.devices == {"cuda"}
    assert fake.asked == [(CUDA, {"use_tf32": "0"}), CPU]
    assert capsys.readouterr().out == ""  # stdout belongs to the command


def test_a_tensorrt_bundle_has_no_provider(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quamba_export.runtime import bundle

    opened = SimpleNamespace(backend="tensorrt"), SimpleNamespace(location=None)
    monkeypatch.setattr(bundle, "open_folder", lambda path: nullcontext(opened))
    with pytest.raises(QuambaError, match="no provider to choose") as caught:
        open_model(export, provider="cuda")
    assert caught.value.code is ExitCode.USAGE


def test_a_profile_gives_every_node_of_a_step_its_provider(export: Path) -> None:
    (found,) = place_nodes(export, read_manifest(export), "cpu", threads=1)
    assert (found.provider, found.nodes) == (CPU, sum(found.ops.values()))
    assert found.ops["Scan"] == found.ops["ReduceSum"] == LAYERS  # ReduceSum is in the bodies only


def test_nodes_are_counted_by_provider() -> None:
    def ran(op: str, provider: str) -> dict[str, Any]:
        return {"cat": "Node", "name": "n_kernel_time", "args": {"op_name": op, "provider": provider}}

    events = [
        {"cat": "Session", "name": "model_run", "args": {}},
        {"cat": "Node", "name": "n_fence_before", "args": {"op_name": "Mul"}},
        ran("BitwiseXor", CPU),
        ran("Mul", CUDA),
        ran("MemcpyToHost", CUDA),
        ran("Mul", CUDA),
    ]
    on_cuda = Placement(CUDA, 3, {"Mul": 2, "MemcpyToHost": 1})
    assert placements(events) == [on_cuda, Placement(CPU, 1, {"BitwiseXor": 1})]
