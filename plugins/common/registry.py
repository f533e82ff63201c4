"""Every op of the project, found by folder: a folder of plugins/ with an op.py is an op of that name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from quamba_export.plugins.common.contract import OpSpec, Size
from quamba_export.plugins.common.torch_op import Outputs, register
from quamba_export.runtime.errors import QuambaError

PLUGINS = Path(__file__).parent.parent


@dataclass(frozen=True)
class Op:
    """One op with all its layers that Python sees; onnx_body takes sizes, input dtypes and attributes."""

    spec: OpSpec
    reference: Callable[..., Outputs]  # torch tensors in, torch tensors out: the definition of the op
    torch_op: Callable[..., Outputs]  # the same behind the contract's checks, as torch.ops.quamba.<name>
    onnx_body: Callable[[Mapping[str, Size], Mapping[str, str], Mapping[str, float | int]], str]


def op_names() -> list[str]:
    """Names of all ops, sorted."""
    return sorted(path.parent.name for path in PLUGINS.glob("*/op.py"))


def kernel_names() -> list[str]:
    """Names of the ops that have a kernel, sorted: those of the plugin library; others run on a CPU only."""
    return [name for name in op_names() if (PLUGINS / name / "launch.cu").is_file()]


@cache
def get_op(name: str) -> Op:
    """The op of that name; raises QuambaError when no folder has it."""
    if name not in op_names():
        raise QuambaError(f"no op named '{name}'", found=name, allowed=", ".join(op_names()))
    module = importlib.import_module(f"quamba_export.plugins.{name}.op")
    return Op(module.SPEC, module.reference, register(module.SPEC, module.reference), module.onnx_body)
