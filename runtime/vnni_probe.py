"""Finds a host whose ONNX Runtime gets integer products wrong, by letting it compute some.

x86-64 without VNNI multiplies uint8 by int8 with vpmaddubsw, which adds two products in 16 saturating bits:
255 * 127 * 2 = 64770 becomes 32767. ONNX Runtime's `session.x64quantprecision` makes it use wider, slower
kernels there; the engine asks for them where the probe finds that they are needed.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.ort_session import import_onnxruntime, session_options

ROWS, DEPTH, COLUMNS = 5, 64, 16
ONNX_TYPE = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}  # TensorProto.DataType
IR_VERSION, OPSET = 9, 19


@dataclass(frozen=True)
class Int8Products:
    """Whether ONNX Runtime's integer products equal exact ones on this host."""

    cpu: str
    exact_by_default: bool
    exact_as_engine: bool  # with the options that every engine sets

    @property
    def warning(self) -> str | None:
        """What a user of this host should know, in one line."""
        if self.exact_by_default and self.exact_as_engine:
            return None
        what = f"ONNX Runtime saturates int8 products on this host ({self.cpu}: x86-64 without VNNI)"
        if self.exact_as_engine:
            return f"{what}; its slower, exact kernels are used"
        return f"{what}, so results differ from the reference; use a CPU with VNNI, or an ARM one"


@lru_cache(maxsize=1)
def probe_int8_products() -> Int8Products:
    """Run both products on extreme values under both sets of options, once a process (about 10 ms)."""
    default, wide = (session_options(threads=1, wide_products=wide) for wide in (False, True))
    exact_by_default = all(is_exact(dtype, default) for dtype in ("uint8", "int8"))
    return Int8Products(
        cpu=cpu_name(),
        exact_by_default=exact_by_default,
        exact_as_engine=exact_by_default or all(is_exact(dtype, wide) for dtype in ("uint8", "int8")),
    )


def is_exact(dtype: str, options: Any) -> bool:
    """Whether MatMulInteger(a, int8 weights) equals the exact integers for one row and for several."""
    model = product_model(dtype)
    session = import_onnxruntime().InferenceSession(model, options, providers=["CPUExecutionProvider"])
    a, weights = extreme_values(dtype)
    exact = a.astype(np.int32) @ weights.astype(np.int32)  # (ROWS, COLUMNS)
    single, several = (session.run(None, {"a": rows})[0] for rows in (a[:1], a))
    return bool(np.array_equal(single, exact[:1]) and np.array_equal(several, exact))


def extreme_values(dtype: str) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """a (ROWS, DEPTH): all largest, all smallest, then mixtures; weights (DEPTH, COLUMNS) likewise."""
    limits = np.iinfo(dtype)
    a = np.full((ROWS, DEPTH), limits.max, dtype=dtype)
    a[1], a[2, ::2], a[3, 1::2], a[4, : DEPTH // 2] = (limits.min,) * 4
    weights = np.full((DEPTH, COLUMNS), 127, dtype=np.int8)
    weights[:, 1::3], weights[::2, 2::3] = -128, -128
    return a, weights


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def product_model(dtype: str) -> bytes:
    """An ONNX model `y = MatMulInteger(a, weights)` with constant weights: `onnx` is not there at run time.

    Numbers are the fields of onnx.proto3: ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto.
    """
    _, weights = extreme_values(dtype)
    node = text(1, "a") + text(1, "weights") + text(2, "y") + text(4, "MatMulInteger")
    dims = varint_field(1, DEPTH) + varint_field(1, COLUMNS)
    initializer = dims + varint_field(2, ONNX_TYPE["int8"]) + text(8, "weights") + block(9, weights.tobytes())
    graph = (
        block(1, node)
        + text(2, "int8_products")
        + block(5, initializer)
        + block(11, value_info("a", ONNX_TYPE[dtype], DEPTH))
        + block(12, value_info("y", ONNX_TYPE["int32"], COLUMNS))
    )
    opset = text(1, "") + varint_field(2, OPSET)
    return varint_field(1, IR_VERSION) + block(7, graph) + block(8, opset)


def value_info(name: str, element_type: int, columns: int) -> bytes:
    """A tensor (rows, columns) whose row count is open."""
    shape = block(1, text(2, "rows")) + block(1, varint_field(1, columns))
    tensor_type = varint_field(1, element_type) + block(2, shape)
    return text(1, name) + block(2, block(1, tensor_type))


def varint(value: int) -> bytes:
    """Protobuf's base-128 integer, least significant group first."""
    groups = bytearray()
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])


def varint_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def block(number: int, content: bytes) -> bytes:
    """A length-delimited field: bytes, text or a nested message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def text(number: int, content: str) -> bytes:
    return block(number, content.encode())
