"""The file of weights beside an ONNX graph: a tensor is written when it is named, and memory keeps no copy.

onnx.save_model takes a graph that holds every weight and copies it on the way; an export of 8 GB would need
several times that. The bytes and their places are the same.
"""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

SMALLEST = 1024  # bytes of a tensor that is not kept in the graph itself


class WeightFile:
    """Appends tensors to a binary file; called with name and values it gives the graph's TensorProto.

    location: name of the file as the graph says it, relative to the graph's folder.
    """

    def __init__(self, file: IO[bytes], location: str) -> None:
        self._file, self._location = file, location

    def __call__(self, values: NDArray[np.generic], name: str) -> TensorProto:
        if values.nbytes < SMALLEST:
            return numpy_helper.from_array(values, name)
        proto = TensorProto(
            name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype)
        )
        proto.raw_data = b""  # set_external_data wants some
        set_external_data(proto, self._location, offset=self._file.tell(), length=values.nbytes)
        proto.ClearField("raw_data")
        self._file.write(np.ascontiguousarray(values).data)
        return proto
