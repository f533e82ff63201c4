"""Torch custom ops from contracts: `torch.ops.quamba.<Name>` runs the reference, nothing else does the
work.

The schema is derived from the OpSpec, so it cannot drift from it. The op is functional: an aliasing output
is a new tensor here and the same buffer only on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from quamba_export.plugins.common.contract import OpSpec

_DTYPE_NAMES = {torch.int8: "int8", torch.int32: "int32", torch.float16: "float16", torch.float32: "float32"}
_LIBRARY = torch.library.Library("quamba", "DEF")

Outputs = torch.Tensor | tuple[torch.Tensor, ...]


def dtype_name(tensor: torch.Tensor) -> str:
    """The contract's name of a tensor's dtype, or torch's own where the contract has none."""
    return _DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype))


def schema(spec: OpSpec) -> str:
    """The torch schema of an op: tensors in the contract's order, attributes keyword-only."""
    arguments = [f"Tensor {t.name}" for t in spec.inputs]
    if spec.attrs:
        arguments += ["*", *(f"{a.type} {a.name}" for a in spec.attrs)]
    returns = ", ".join("Tensor" for _ in spec.outputs)
    return f"{spec.name}({', '.join(arguments)}) -> ({returns})"


def register(spec: OpSpec, reference: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """Define `torch.ops.quamba.<spec.name>`: every call is checked against the contract, then `reference`
    runs.
    """

    def checked(*inputs: torch.Tensor, **attrs: float | int) -> Outputs:
        spec.bind([dtype_name(t) for t in inputs], [tuple(t.shape) for t in inputs], attrs)
        return reference(*inputs, **attrs)

    def fake(*inputs: torch.Tensor, **attrs: float | int) -> Outputs:
        dtypes = [dtype_name(t) for t in inputs]
        sizes = spec.bind(dtypes, [tuple(t.shape) for t in inputs], attrs)
        outputs = tuple(
            inputs[0].new_empty([int(size) for size in shape], dtype=getattr(torch, dtype))
            for shape, dtype in zip(spec.output_shapes(sizes), spec.output_dtypes(dtypes), strict=True)
        )
        return outputs if len(outputs) > 1 else outputs[0]

    _LIBRARY.define(schema(spec))
    _LIBRARY.impl(spec.name, checked, "CompositeExplicitAutograd")
    torch.library.register_fake(f"quamba::{spec.name}", fake, lib=_LIBRARY)
    op: Callable[..., Outputs] = getattr(torch.ops.quamba, spec.name).default
    return op
