"""Run calib/model/network.py in PyTorch: every quamba op is its reference, the rest are torch calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from quamba_export.plugins.common.int4 import dequantize_int4
from quamba_export.plugins.common.registry import get_op


class TorchBackend:
    """Interpreter whose values are torch tensors."""

    def __init__(
        self, tensors: Mapping[str, Tensor], tap: Callable[[str, Tensor], None] | None = None
    ) -> None:
        self._tensors, self._tap = tensors, tap

    def op(self, name: str, *inputs: Tensor, **attrs: float | int) -> tuple[Tensor, ...]:
        outputs = get_op(name).torch_op(*inputs, **attrs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def weight(self, name: str) -> Tensor:
        return self._tensors[name]

    def embed(self, table: Tensor, input_ids: Tensor) -> Tensor:
        return table[input_ids].float()

    def embed_codes(self, codes: Tensor, scale: Tensor, input_ids: Tensor, bits: int) -> Tensor:
        rows, scales = codes[input_ids], scale[input_ids]  # (B, L, D) or (B, L, D/2), (B, L) or (B, L, G)
        if bits == 8:
            return rows.float() * scales[..., None]
        flat = dequantize_int4(rows.flatten(0, 1), scales.flatten(0, 1))
        return flat.reshape(*input_ids.shape, -1)

    def split(self, x: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
        return torch.split(x, list(sizes), dim=-1)

    def reshape_last(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        return x.reshape(*x.shape[:2], *shape)

    def last_tokens(self, x: Tensor, count: Tensor) -> Tensor:
        return x[:, -int(count) :]

    def norm_linear(self, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        return (x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon)) @ weight.T.float()

    def tap(self, site: str, value: Tensor) -> Tensor:
        if self._tap is not None:
            self._tap(site, value)
        return value
