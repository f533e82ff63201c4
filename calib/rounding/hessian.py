"""The Hessian of a linear layer's squared output error: the second moments of its inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from quamba_export.calib.device import CPU
from quamba_export.calib.workers import one_thread
from quamba_export.runtime.errors import ExitCode, QuambaError

ROWS = 512  # inputs that are multiplied at once in fp32, and then added in fp64


class Hessian:
    """H = 2/n sum x x^T over the inputs x of a layer with K columns, (K, K) fp64, as the inputs come.

    Inputs are taken ROWS at a time however they are cut into batches, so any cut gives the same bits. Memory:
    8 K^2 + 4 ROWS K bytes.
    """

    def __init__(self, columns: int, device: torch.device = CPU) -> None:
        self.inputs = 0
        self._sum = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        self._waiting = torch.zeros(ROWS, columns, device=device)

    def add(self, x: Tensor) -> None:
        """x (..., K): one input for each index of the leading dimensions."""
        rows = x.reshape(-1, x.shape[-1]).to(self._waiting)
        while len(rows):
            filled = self.inputs % ROWS
            taken = rows[: ROWS - filled]
            self._waiting[filled : filled + len(taken)] = taken
            self.inputs += len(taken)
            rows = rows[len(taken) :]
            if self.inputs % ROWS == 0:
                self._sum += self._product(ROWS)

    def matrix(self, name: str = "the layer") -> Tensor:
        """H so far; `name` is the layer's, for errors.

        Raises QuambaError where there was no input, or one that is not finite.
        """
        if not self.inputs:
            raise QuambaError(f"{name} saw no input", found="0 inputs", fix="give calibration text")
        total = (self._sum + self._product(self.inputs % ROWS)) * (2 / self.inputs)
        require_finite(total.diagonal(), f"the inputs of {name} are not finite", "channel")
        return total

    def _product(self, rows: int) -> Tensor:
        part = self._waiting[:rows]
        with one_thread():
            return (part.T @ part).double()


def require_finite(values: Tensor, message: str, unit: str) -> None:
    """Raise QuambaError (exit 5) with `message` and the place of the first value that is not finite."""
    wrong = torch.nonzero(~torch.isfinite(values))
    if len(wrong):
        where = ", ".join(str(int(index)) for index in wrong[0])
        raise QuambaError(
            message,
            found=f"{len(wrong)} of {values.numel()} {unit}s, the first at {where}",
            fix="check the checkpoint's weights",
            code=ExitCode.NUMERIC,
        )
