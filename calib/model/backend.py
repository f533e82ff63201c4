"""What an interpreter of network.py provides: torch_backend.py in PyTorch, onnx_backend.py as ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

V = TypeVar("V")


class Backend(Protocol[V]):
    """What an interpreter provides; V is its value: a torch tensor, the name of an ONNX tensor."""

    def op(self, name: str, *inputs: V, **attrs: float | int) -> tuple[V, ...]:
        """Outputs of the quamba op `name`."""

    def weight(self, name: str) -> V:
        """A constant of the quantized model."""

    def embed(self, table: V, input_ids: V) -> V:
        """Rows of the fp16 or fp32 table (V, D) for input_ids (B, L) -> (B, L, D) fp32."""

    def embed_codes(self, codes: V, scale: V, input_ids: V, bits: int) -> V:
        """The same of 8 or 4 bits, as calib/rounding/stored_weight.py stores it: code * scale in fp32."""

    def split(self, x: V, sizes: Sequence[int]) -> tuple[V, ...]:
        """Parts of the last axis."""

    def reshape_last(self, x: V, shape: Sequence[int]) -> V:
        """(B, L, ...) -> (B, L, *shape)."""

    def last_tokens(self, x: V, count: V) -> V:
        """x (B, L, D) -> its last `count` positions; all of them for a count of 0 or beyond L."""

    def norm_linear(self, x: V, weight: V, epsilon: float) -> V:
        """Float RMSNorm, then x @ weight.T with an fp16 or fp32 weight: final norm and unquantized head."""

    def tap(self, site: str, value: V) -> V:
        """Name a tensor; the value goes on unchanged."""
