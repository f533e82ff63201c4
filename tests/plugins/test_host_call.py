"""From bound shapes to the launcher's struct: tensors of their own, rows inside wider rows, refusals."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from op_cases import COMPILED, Case

from quamba_export.plugins.common.c_header import header, letters, strided
from quamba_export.plugins.common.registry import kernel_names
from tests.gpu.kernel_library import DTYPES, struct_type

ROOT = Path(__file__).resolve().parents[2]
NAMES = kernel_names()
# what the kernels would answer; here every size has one
KERNELS = """#include "contracts.h"
""" + "".join(
    f"""const char *quamba_{name}_refusal(const Quamba{name} *) {{ return 0; }}
size_t quamba_{name}_workspace(const Quamba{name} *) {{ return 0; }}
int quamba_{name}_launch(const Quamba{name} *, void *, cudaStream_t) {{ return 0; }}
"""
    for name in NAMES
)


@pytest.fixture(scope="module")
def binder(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ found: apt install g++")
    folder = tmp_path_factory.mktemp("host_call")
    (folder / "contracts.h").write_text(header())
    (folder / "kernels.cpp").write_text(KERNELS)
    sources = [ROOT / "tests/plugins/host_call.cpp", ROOT / "plugins/common/call.cpp", folder / "kernels.cpp"]
    warn = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    library = folder / "call.so"
    subprocess.run([compiler, *warn, "-shared", "-fPIC", f"-I{folder}", *sources, "-o", library], check=True)
    return ctypes.CDLL(str(library))


@dataclass
class Call:
    """What TensorRT binds for a case: shapes in the contract's order, and the two plugin fields."""

    case: Case
    shapes: list[tuple[int, ...]]
    offsets: list[int]
    sizes: list[int] = field(default_factory=list)

    @classmethod
    def own(cls, case: Case) -> Call:
        shapes = [array.shape for array in case.inputs.values()]
        return cls(case, shapes, [-1] * len(shapes), [0] * len(letters(case.spec)))

    @property
    def bound(self) -> dict[str, int]:
        arrays = list(self.case.inputs.values())
        dtypes, shapes = [str(a.dtype) for a in arrays], [a.shape for a in arrays]
        sizes = self.case.spec.bind(dtypes, shapes, self.case.attrs)
        return {letter: int(size) for letter, size in sizes.items()}

    def packed(self, offset: int, behind: int) -> Call:
        """Every row lies at `offset` of a row that goes on for `behind` elements; all sizes are given."""
        shapes, offsets = list(self.shapes), list(self.offsets)
        for i, tensor in enumerate(self.case.spec.inputs):
            if strided(tensor):
                row = int(np.prod(shapes[i][2:]))
                shapes[i], offsets[i] = (*shapes[i][:2], offset + row + behind), offset
        sizes = [0 if letter in "BL" else self.bound[letter] for letter in letters(self.case.spec)]
        return Call(self.case, shapes, offsets, sizes)

    def bind(self, binder: ctypes.CDLL) -> ctypes.Structure | str:
        """The struct, or the refusal's text."""
        spec, arrays = self.case.spec, self.case.inputs.values()
        struct, given = struct_type(spec)(), struct_type(spec)()
        for name, value in self.case.attrs.items():
            setattr(given, name, value)
        error = ctypes.create_string_buffer(1000)

        def ints(values: list[int], kind: type = ctypes.c_int32) -> ctypes.Array[ctypes.c_int32]:
            return (kind * len(values))(*values)

        refused = binder.bind_call(
            NAMES.index(spec.name),
            ints(self.offsets),
            ints(self.sizes),
            ints([DTYPES[str(a.dtype)] for a in arrays]),
            ints([len(shape) for shape in self.shapes]),
            ints([size for shape in self.shapes for size in shape], ctypes.c_int64),
            ctypes.byref(given),
            ctypes.byref(struct),
            error,
        )
        return error.value.decode() if refused else struct


def check(call: Call, struct: ctypes.Structure | str, strides: list[int]) -> None:
    assert not isinstance(struct, str), struct
    spec = call.case.spec
    assert {letter: getattr(struct.size, letter) for letter in letters(spec)} == call.bound
    rows = [tensor.name for tensor in spec.inputs if strided(tensor)]
    assert [getattr(struct, f"{name}_stride") for name in rows] == strides
    for name, value in call.case.attrs.items():
        assert getattr(struct, name) == pytest.approx(value, rel=1e-6)


def rows_of(case: Case) -> list[int]:
    return [int(np.prod(case.inputs[t.name].shape[2:])) for t in case.spec.inputs if strided(t)]


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_tensors_of_their_own(binder: ctypes.CDLL, case: Case) -> None:
    call = Call.own(case)
    check(call, call.bind(binder), rows_of(case))


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_rows_inside_wider_rows(binder: ctypes.CDLL, case: Case) -> None:
    call = Call.own(case).packed(offset=3, behind=5)
    check(call, call.bind(binder), [row + 8 for row in rows_of(case)])


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_a_row_that_is_too_short_is_refused(binder: ctypes.CDLL, case: Case) -> None:
    call = Call.own(case).packed(offset=3, behind=-1)
    assert "reaches beyond its row" in str(call.bind(binder))


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_a_wrong_rank_and_an_empty_input_are_refused(binder: ctypes.CDLL, case: Case) -> None:
    call = Call.own(case)
    for i, tensor in enumerate(case.spec.inputs):
        for wrong, part in (((*call.shapes[i], 1), "wrong rank"), ((0,) * len(call.shapes[i]), "is empty")):
            shapes = [*call.shapes[:i], wrong, *call.shapes[i + 1 :]]
            message = str(replace(call, shapes=shapes).bind(binder))
            assert part in message
            assert f"'{tensor.name}'" in message


@pytest.mark.parametrize("case", COMPILED, ids=str)
def test_sizes_that_disagree_are_refused(binder: ctypes.CDLL, case: Case) -> None:
    call = Call.own(case)
    last = len(case.spec.inputs) - 1
    shapes = [*call.shapes[:last], tuple(size + 1 for size in call.shapes[last])]
    message = str(replace(call, shapes=shapes).bind(binder))
    if last > 0:
        assert "disagrees with the other inputs" in message


@pytest.mark.parametrize("op", NAMES)
def test_a_size_that_no_input_tells_is_refused(binder: ctypes.CDLL, op: str) -> None:
    call = Call.own(next(case for case in COMPILED if case.op == op)).packed(offset=0, behind=0)
    call = replace(call, sizes=[0] * len(call.sizes))
    struct = call.bind(binder)
    own = (tensor for tensor in call.case.spec.inputs if not strided(tensor))
    told = {dim[0] for tensor in own for dim in tensor.dims if "/" not in dim} | {"B", "L"}
    if set(letters(call.case.spec)) <= told:
        check(call, struct, rows_of(call.case))
    else:
        assert "cannot be read from inputs in wider rows" in str(struct)
