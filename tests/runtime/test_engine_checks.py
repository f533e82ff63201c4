"""A TensorRT bundle is for this machine, and its plans are those that the manifest tells of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_records import engine_record
from refusals import refused
from tiny_recurrent import V, state_table

from quamba_export.runtime import tensorrt_plan
from quamba_export.runtime.engine_checks import check_contracts, check_machine, tensors_of
from quamba_export.runtime.engine_record import WeightTensor
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.tensorrt_library import check_driver

TABLE = (WeightTensor("a.weight", "int8", (3, 5), 0), WeightTensor("b.weight", "float32", (2, 2), 256))
RECORD = engine_record(TABLE)


class FakeTensorRT:
    """A plan of the tiny model and TABLE's weights, as much of TensorRT as Plan.check asks."""

    nptype = staticmethod(np.dtype)

    def __init__(self) -> None:
        self.tensors = {"input_ids": ("int64", (-1, -1)), "logits": ("float32", (-1, -1, V))}
        for state in state_table():
            for name in (state.past, state.present):
                self.tensors[name] = state.dtype, (-1, *state.shape)
        self.tensors |= {weight.name: (weight.dtype, weight.shape) for weight in TABLE}

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> str:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, int]]:
        assert (name, profile) == ("input_ids", 0)
        return [(1, 1), (1, 8), (4, 8)]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> tensorrt_plan.Plan:
    monkeypatch.setattr(tensorrt_plan, "import_tensorrt", FakeTensorRT)
    plan = object.__new__(tensorrt_plan.Plan)
    plan._engine, plan._name = FakeTensorRT(), "decode.engine"
    return plan


def test_a_plan_of_the_tensors_that_the_manifest_names_is_taken(plan: tensorrt_plan.Plan) -> None:
    plan.check(tensors_of(RECORD, state_table(), V))


@pytest.mark.parametrize("name", ["a.weight", "past_conv_states.0", "present_ssm_states.1", "logits"])
@pytest.mark.parametrize("change", ["dtype", "shape", "rank", "missing"])
def test_a_tensor_that_is_not_the_plans_is_refused(plan: tensorrt_plan.Plan, name: str, change: str) -> None:
    """Memory is allocated as the manifest says, and the kernels write as the plan does."""
    dtype, shape = plan._engine.tensors.pop(name)
    wanted = f"{dtype} {shape}".replace("-1", "any")
    if change != "missing":
        plan._engine.tensors[name] = {
            "dtype": ("int32", shape),
            "shape": (dtype, (*shape[:-1], shape[-1] + 1)),
            "rank": (dtype, (*shape, 1)),
        }[change]
    with refused(name, "decode.engine", f"found: {wanted}", code=ExitCode.INTEGRITY):
        plan.check(tensors_of(RECORD, state_table(), V))


def test_a_weight_that_the_manifest_leaves_out_is_refused(plan: tensorrt_plan.Plan) -> None:
    plan._engine.tensors["c.weight"] = "int8", (2, 2)
    with refused("c.weight", "found: no such tensor", "allowed: int8 (2, 2)", code=ExitCode.INTEGRITY):
        plan.check(tensors_of(RECORD, state_table(), V))


@pytest.mark.parametrize("calls", [(4, 8), (1, 1), (4, 1)])
def test_calls_within_the_plan_s_profile_are_taken(plan: tensorrt_plan.Plan, calls: tuple[int, int]) -> None:
    plan.check_calls(*calls)


@pytest.mark.parametrize("calls", [(5, 8), (4, 9), (64, 4096)])
def test_calls_beyond_the_plan_s_profile_are_refused(
    plan: tensorrt_plan.Plan, calls: tuple[int, int]
) -> None:
    """Found when the bundle is opened, not by TensorRT in the middle of a prompt."""
    found = f"found: {calls[0]} sequences of {calls[1]} tokens"
    with refused("decode.engine", found, "up to 4 of 8", "quamba-export build", code=ExitCode.INTEGRITY):
        plan.check_calls(*calls)


def test_another_machine_is_refused_with_both_versions() -> None:
    check_machine(RECORD, "10.6.0", 90, lean=False)
    with refused("another TensorRT", "found: TensorRT 10.3.0", "allowed: TensorRT 10.6.0", "build", code=5):
        check_machine(RECORD, "10.3.0", 90, lean=False)
    with refused("another TensorRT", "found: TensorRT 10.7.0", "allowed: TensorRT 10.6.0", code=5):
        check_machine(RECORD, "10.7.0", 90, lean=False)
    with refused("another TensorRT", "10.6.0, the lean runtime here", "not its lean runtime", code=5):
        check_machine(RECORD, "10.6.0", 90, lean=True)
    with refused("another GPU", "found: GPU sm_87", "allowed: GPU sm_90", "quamba-export build", code=5):
        check_machine(RECORD, "10.6.0", 87, lean=False)


def test_a_version_compatible_bundle_runs_in_later_versions() -> None:
    record = replace(RECORD, version_compatible=True)
    for version in ("10.6.0", "10.6.0.post1", "10.6.1", "10.16.1.11"):
        check_machine(record, version, 90, lean=False)
        check_machine(record, version, 90, lean=True)
    for version in ("10.5.9", "11.0.0", "9.9.9"):
        with refused("another TensorRT", f"found: TensorRT {version}", "10.6.0 or a later 10", code=5):
            check_machine(record, version, 90, lean=True)
    with refused("another GPU", code=5):
        check_machine(record, "10.16.1", 89, lean=True)
    with refused("another TensorRT", "found: TensorRT 10.6.0", "allowed: TensorRT newest", code=5):
        check_machine(replace(record, tensorrt="newest"), "10.6.0", 90, lean=False)


def test_another_plugin_library_is_refused() -> None:
    check_contracts(RECORD, "c0ffee")
    with refused("libquamba_plugins.so", "found: contracts beef", "allowed: contracts c0ffee", code=5):
        check_contracts(RECORD, "beef")


def test_a_library_of_a_later_cuda_than_the_driver_s_is_refused() -> None:
    library = Path("libquamba_plugins.so")
    for cuda, driver in ((12060, 12020), (12060, 13000), (13020, 13000), (13000, 0)):  # 0: no driver, no GPU
        check_driver(library, cuda, driver)
    with refused("does not load", "compiled with CUDA 13.0", "driver is of 12.6", "a driver of", code=5):
        check_driver(library, 13000, 12060)
