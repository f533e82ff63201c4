"""Activations of every calibration sample in one file, so that memory does not grow with the samples."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from quamba_export.calib.device import CPU


@dataclass(frozen=True)
class SampleFile:
    """fp32 values (samples, length, width) in a file; any process reads and writes any run of samples."""

    path: Path
    length: int
    width: int

    def create(self, samples: int) -> None:
        """An empty file with its room on the disk; raises OSError where there is none."""
        with self.path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, samples * self._sample_bytes)

    def read(self, first: int, count: int, device: torch.device = CPU) -> Tensor:
        """Samples first .. first + count - 1: (count, L, F) on `device`."""
        values = np.fromfile(
            self.path, np.float32, count * self.length * self.width, offset=first * self._sample_bytes
        )
        samples = torch.from_numpy(values).view(count, self.length, self.width)
        return samples.clone() if device == CPU else samples.to(device)  # a copy, in torch's alignment

    def write(self, first: int, values: Tensor) -> None:
        """values (count, L, F) as the samples from `first` on."""
        with self.path.open("r+b") as file:
            file.seek(first * self._sample_bytes)
            file.write(values.cpu().contiguous().numpy().tobytes())

    def to_disk(self) -> None:
        """Return when a power cut would find the content too."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    @property
    def _sample_bytes(self) -> int:
        return 4 * self.length * self.width
