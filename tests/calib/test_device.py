"""`--device`: names that are refused, and that no model reads a tensor of the CPU's beside one of the GPU's.

A fake CUDA tensor has a device and a shape and no values: operations that mix devices fail on it as on a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from random_calibrations import random_calibration
from random_checkpoints import MAMBA1, MAMBA2_GROUPS, random_checkpoint
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from quamba_export.calib.device import check_workers, torch_device
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.scan_input import ScanInput, with_scan_input
from quamba_export.calib.model.torch_backend import TorchBackend
from quamba_export.plugins.common.hadamard import hadamard_factors
from quamba_export.plugins.common.registry import get_op
from quamba_export.runtime.errors import ExitCode, QuambaError

CONFIGS = {"mamba1": replace(MAMBA1, n_layer=1), "mamba2": replace(MAMBA2_GROUPS, n_layer=1)}
LENGTH = {"mamba1": 2, "mamba2": 65}  # a whole chunk of the SSD scan, and a token behind it


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CUDA", "cuda:-1", ""])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(QuambaError, match="unknown --device") as caught:
        torch_device(name)
    assert caught.value.code == ExitCode.USAGE


def test_a_gpu_that_torch_does_not_find_is_refused() -> None:
    with pytest.raises(QuambaError, match="finds no such GPU") as caught:
        torch_device("cuda:99")
    assert "cpu" in caught.value.allowed
    assert caught.value.code == ExitCode.USAGE


def test_a_rank_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert torch_device("cuda") == torch.device("cuda:0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert torch_device("cuda") == torch.device("cuda:3")
    assert torch_device("cuda:1") == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert torch_device("cuda") == torch.device("cuda:3")
    with pytest.raises(QuambaError, match="one GPU for all ranks") as caught:
        torch_device("cuda:1")
    assert "4 ranks" in caught.value.found


def test_one_process_feeds_a_gpu() -> None:
    with pytest.raises(QuambaError, match="fed by one process") as caught:
        check_workers(2, torch.device("cuda"))
    assert caught.value.code == ExitCode.USAGE
    check_workers(2, torch.device("cpu"))


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a model of either class on fake CUDA tensors: its logits, of a prefill and a step behind it."""

    def reference(self: TorchBackend, name: str, *inputs: Tensor, **attrs: float) -> tuple[Tensor, ...]:
        found = get_op(name).reference(*inputs, **attrs)
        return found if isinstance(found, tuple) else (found,)

    def run(model: Any) -> Tensor:
        hadamard_factors.cache_clear()  # of another test, in inference mode, which fake tensors do not see
        with torch.no_grad():
            model(torch.zeros(1, 2, dtype=torch.int64))  # the Hadamard factors, cached, are real ones
        monkeypatch.setattr(TorchBackend, "op", reference)
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        model.tensors.update({name: mode.from_tensor(tensor) for name, tensor in model.tensors.items()})
        with mode, torch.no_grad():
            moved = model.to(torch.device("cuda"))
            ids = torch.zeros(2, LENGTH[model.config.kind], dtype=torch.int64, device="cuda")
            _, states = moved(ids, None)
            return moved(ids[:, :1], states)[0]

    return run


@pytest.mark.parametrize("name", CONFIGS)
def test_the_float_model_stays_on_its_device(name: str, on_gpu: Any) -> None:
    model = FloatMamba.from_checkpoint(random_checkpoint(CONFIGS[name]))
    assert on_gpu(model).device.type == "cuda"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("qformat", ["w8a8", "w4a8", "w4a16", "w8a16"])
def test_the_quantized_model_stays_on_its_device(name: str, qformat: str, on_gpu: Any) -> None:
    checkpoint = random_checkpoint(CONFIGS[name])
    calibration = (
        random_calibration(checkpoint.config, digest=checkpoint.digest) if qformat.endswith("a8") else None
    )
    assert on_gpu(quantize_model(checkpoint, calibration, qformat)).device.type == "cuda"


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("state", ["int8", "int8-dynamic", "float32"])
def test_every_state_stays_on_the_device(name: str, state: Any, on_gpu: Any) -> None:
    checkpoint = random_checkpoint(CONFIGS[name])
    model = quantize_model(
        checkpoint, random_calibration(checkpoint.config, digest=checkpoint.digest), ssm_state_dtype=state
    )
    assert on_gpu(model).device.type == "cuda"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_study_of_the_scan_input_stays_on_the_device(name: str, on_gpu: Any) -> None:
    checkpoint = random_checkpoint(CONFIGS[name])
    calibration = random_calibration(checkpoint.config, digest=checkpoint.digest)
    calibration.statistics["layers.0.x"] = {"absmax": 10.0}
    model = with_scan_input(quantize_model(checkpoint, calibration), calibration, ScanInput("dual-scale"))
    assert on_gpu(model).device.type == "cuda"
