"""libquamba_plugins.so in TensorRT's own plugin registry, with no GPU: listed, created, refused in words."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from quamba_export.exporter.plugin_library import find_headers, find_nvcc, find_tool, plugin_library
from quamba_export.plugins.common.c_header import contracts_digest, header, letters, strided
from quamba_export.plugins.common.contract import OpSpec
from quamba_export.plugins.common.registry import get_op, op_names
from quamba_export.runtime.errors import QuambaError
from tests.gpu.kernel_library import struct_type

ROOT = Path(__file__).resolve().parents[2]
SPECS = [get_op(name).spec for name in op_names()]
Field = tuple[str, str, list[float]]

pytestmark = pytest.mark.xdist_group("plugin_library")  # one process builds it


@pytest.fixture(scope="module")
def library() -> Path:
    """For one architecture, kept in build/ for the next run."""
    cache = ROOT / "build" / "plugins"
    try:
        find_nvcc(), find_tool("cmake"), find_tool("ninja"), find_headers(cache)
    except QuambaError as missing:
        pytest.skip(f"{missing.message}: {missing.fix}")
    return plugin_library([90], cache=cache)


def ask(library: Path, requests: list[tuple[str, list[Field]]]) -> dict[str, object]:
    """What registry_process.py answers."""
    libraries = importlib.util.find_spec("tensorrt_lean_libs")
    if libraries is None or libraries.origin is None:
        pytest.skip("no tensorrt_lean_libs: pip install tensorrt-lean-cu12-libs tensorrt-lean-cu12-bindings")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("registry_process.py"), library],
        input=json.dumps(requests),
        env={"LD_LIBRARY_PATH": str(Path(libraries.origin).parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, object] = json.loads(done.stdout)
    return answers


def good(spec: OpSpec) -> list[Field]:
    return [(a.name, "FLOAT32" if a.type == "float" else "INT32", [1]) for a in spec.attrs]


def errors(library: Path, requests: list[tuple[OpSpec, list[Field]]]) -> list[str]:
    answer = ask(library, [(spec.name, fields) for spec, fields in requests])["errors"]
    assert isinstance(answer, list)
    return answer


def refused(library: Path, requests: list[tuple[OpSpec, list[Field]]], *parts: str) -> None:
    for (spec, _), message in zip(requests, errors(library, requests), strict=True):
        assert message.startswith(f"node: {spec.name}: "), message
        for part in ("found", "allowed", f"plugins/{spec.name}/README.md", *parts):
            assert part in message


def test_the_registry_lists_every_op_with_its_fields(library: Path) -> None:
    expected = {
        spec.name: [
            "1",
            [[name, kind] for name, kind, _ in good(spec)] + [["row_offsets", "INT32"], ["sizes", "INT32"]],
        ]
        for spec in SPECS
    }
    assert ask(library, [])["creators"] == expected


def test_every_plugin_is_created_from_its_fields(library: Path) -> None:
    calls = [(spec, good(spec)) for spec in SPECS]
    for spec in SPECS:
        rows: list[float] = [3 if strided(t) else -1 for t in spec.inputs]
        sizes: list[float] = [4] * len(letters(spec))
        calls.append((spec, [*good(spec), ("row_offsets", "INT32", rows), ("sizes", "INT64", sizes)]))
    assert errors(library, calls) == [""] * len(calls)


def test_a_missing_attribute_is_named(library: Path) -> None:
    for_each = [(spec, i) for spec in SPECS for i in range(len(spec.attrs))]
    calls = [(spec, [f for k, f in enumerate(good(spec)) if k != i]) for spec, i in for_each]
    for (spec, i), message in zip(for_each, errors(library, calls), strict=True):
        assert "missing attribute" in message
        assert f"'{spec.attrs[i].name}'" in message


def test_an_unknown_field_is_named(library: Path) -> None:
    refused(
        library,
        [(s, [*good(s), ("scale_of_x", "FLOAT32", [1])]) for s in SPECS],
        "unknown field",
        "scale_of_x",
    )


def test_a_field_given_twice_is_refused(library: Path) -> None:
    refused(library, [(s, [*good(s), good(s)[0]]) for s in SPECS if s.attrs], "twice")


def with_value(spec: OpSpec, name: str, kind: str, values: list[float]) -> list[Field]:
    return [(name, kind, values) if f[0] == name else f for f in good(spec)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0, 1e-44])
def test_a_value_that_is_no_scale_is_refused(library: Path, value: float) -> None:
    calls = [
        (spec, with_value(spec, attr.name, "FLOAT32", [value]))
        for spec in SPECS
        for attr in spec.attrs
        if attr.type == "float" and attr.values == "positive"
    ]
    refused(library, calls, "is out of range")


def test_a_wrong_type_is_refused(library: Path) -> None:
    other = {"float": "INT32", "int": "FLOAT32"}
    calls = [(s, with_value(s, a.name, other[a.type], [1])) for s in SPECS for a in s.attrs]
    refused(library, calls, "has the wrong type")


def test_a_wrong_length_is_refused(library: Path) -> None:
    kinds = {"float": "FLOAT32", "int": "INT32"}
    calls = [(s, with_value(s, a.name, kinds[a.type], [1, 1])) for s in SPECS for a in s.attrs]
    calls += [(s, [*good(s), ("sizes", "INT32", [1])]) for s in SPECS]
    refused(library, calls, "has the wrong length")


def test_row_offsets_are_for_rows_only(library: Path) -> None:
    calls: list[tuple[OpSpec, list[Field]]] = [
        (s, [*good(s), ("row_offsets", "INT32", [0] * len(s.inputs))])
        for s in SPECS
        if not all(strided(t) for t in s.inputs)
    ]
    refused(library, calls, "'row_offsets'", "-1, as its shape is")


def test_the_library_names_its_contracts(library: Path) -> None:
    version = ctypes.CDLL(str(library)).quamba_plugins_version
    version.restype = ctypes.c_char_p
    assert version().decode() == contracts_digest()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_struct_in_python_is_the_one_in_c(spec: OpSpec, tmp_path: Path) -> None:
    struct = struct_type(spec)
    names = [name for name, *_ in struct._fields_]
    offsets = ", ".join(f"offsetof(Quamba{spec.name}, {name})" for name in names)
    program = (
        f'#include <stdio.h>\n#include "contracts.h"\nint main(void) {{ size_t all[] = {{{offsets}, '
        f'sizeof(Quamba{spec.name})}}; for (int i = 0; i <= {len(names)}; ++i) printf("%zu ", all[i]); }}'
    )
    (tmp_path / "contracts.h").write_text(header())
    (tmp_path / "offsets.c").write_text(program)
    subprocess.run(["g++", "-x", "c", "offsets.c", "-o", "offsets"], cwd=tmp_path, check=True)
    printed = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True).stdout
    expected = [getattr(struct, name).offset for name in names] + [ctypes.sizeof(struct)]
    assert [int(word) for word in printed.split()] == expected
