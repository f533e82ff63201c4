"""The weights of a TensorRT bundle on the device: one copy of weights.bin, which both plans read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine_record import WeightTensor


class DeviceWeights:
    """The bytes of weights.bin in one block of device memory."""

    def __init__(self, path: Path, table: Sequence[WeightTensor], cuda: Cuda) -> None:
        """Upload the file once; the host holds none of it afterwards.

        Raises QuambaError (exit 6) where the device has no room for it.
        """
        content = np.memmap(path, np.uint8, mode="r")
        self._memory = cuda.allocate(content.nbytes)
        cuda.copy(self._memory.address, content.ctypes.data, content.nbytes)
        cuda.synchronize()
        self.addresses = {weight.name: self._memory.address + weight.offset for weight in table}
