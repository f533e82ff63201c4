"""The probe's model, what it says here, and what it says on an emulated x86-64 without VNNI."""

import platform
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from quamba_export.runtime.vnni_probe import (
    Int8Products,
    extreme_values,
    is_exact,
    probe_int8_products,
    product_model,
)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_the_hand_written_model_is_valid_onnx(dtype: str) -> None:
    model = onnx.load_from_string(product_model(dtype))
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.node[0].op_type == "MatMulInteger"
    assert np.array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), extreme_values(dtype)[1])


def test_the_values_saturate_16_bits_in_pairs() -> None:
    a, weights = extreme_values("uint8")
    products = a[0].astype(np.int32) * weights[:, 0]
    assert products[0] + products[1] > np.iinfo(np.int16).max


def test_the_options_of_the_engine_are_exact_on_this_host() -> None:
    assert probe_int8_products().exact_as_engine
    assert probe_int8_products().cpu


class Saturating(onnxruntime.InferenceSession):  # type: ignore[misc]
    """A session whose products stop at 32767 a pair."""

    def run(self, outputs: list[str] | None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.minimum(y, 32767 * 32) for y in super().run(outputs, feed)]


def test_a_wrong_product_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", Saturating)
    assert not is_exact("uint8", onnxruntime.SessionOptions())


@pytest.mark.parametrize(
    ("by_default", "as_engine", "text"),
    [(False, True, "slower, exact kernels are used"), (False, False, "results differ from the reference")],
)
def test_the_warning_names_the_processor_and_the_consequence(
    by_default: bool, as_engine: bool, text: str
) -> None:
    warning = Int8Products("Some CPU @ 2.30GHz", by_default, as_engine).warning
    assert warning is not None
    assert "Some CPU @ 2.30GHz" in warning
    assert text in warning


def test_an_exact_host_gets_no_warning() -> None:
    assert Int8Products("Some CPU", True, True).warning is None


@pytest.mark.parametrize(
    ("cpu", "saturates"), [("Haswell", True), ("SandyBridge", False)]
)  # with AVX2, without
def test_an_emulated_processor_without_vnni_is_found_and_helped(cpu: str, saturates: bool) -> None:
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None or platform.machine() != "x86_64":
        pytest.skip("qemu-x86_64 is not installed, or this is no x86-64: apt install qemu-user-static")
    program = (
        "from quamba_export.runtime.vnni_probe import probe_int8_products as probe;"
        "print(probe().exact_by_default, probe().exact_as_engine)"
    )
    result = subprocess.run(
        [emulator, "-cpu", cpu, sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert result.stdout.split() == [str(not saturates), "True"]
