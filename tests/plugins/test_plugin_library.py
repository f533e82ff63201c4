"""libquamba_plugins.so in TensorRT's own plugin registry, with no GPU: listed, created, refused in words.

Of this machine, and for a Jetson: its library runs under qemu, in the registry of TensorRT for its CPU.
"""

from __future__ import annotations

import ctypes
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from plugin_registry import (
    CACHE,
    Field,
    Registry,
    device_code,
    jetson_registry,
    native_registry,
    native_tools,
    optimized,
    quickly,
    skipping_what_is_missing,
)

from quamba_export.exporter.plugin_build.cross_build import cross_toolchain
from quamba_export.exporter.plugin_build.library import ARCHITECTURES, Toolchain, configured, find_tool
from quamba_export.plugins.common.c_header import contracts_digest, header, letters, strided
from quamba_export.plugins.common.contract import OpSpec
from quamba_export.plugins.common.registry import get_op, kernel_names
from tests.gpu.kernel_library import struct_type

SPECS = [get_op(name).spec for name in kernel_names()]


def images(architectures: Sequence[int]) -> list[tuple[str, int]]:
    """What a library for these GPUs holds of every kernel."""
    return [*(("elf", n) for n in architectures), ("ptx", architectures[-1])]


@dataclass(frozen=True)
class Build:
    """One way to compile the library. code: what it holds of every kernel."""

    registry: Callable[[Path], Registry]
    tools: Callable[[], Toolchain]
    code: list[tuple[str, int]]


# of the GPUs without and with what sm_90 brought the first each: the kernels ask for nothing else
GPUS = ARCHITECTURES if optimized() else (80, 90)
BUILDS = {
    "this machine": Build(
        lambda folder: native_registry(GPUS, quickly(native_tools()), folder),
        native_tools,
        images(GPUS),
    ),
    "JetPack 6": Build(
        lambda folder: jetson_registry(6, folder), lambda: cross_toolchain(6, CACHE), [("elf", 87)]
    ),
    "JetPack 7": Build(
        lambda folder: jetson_registry(7, folder),
        lambda: cross_toolchain(7, CACHE),
        [("elf", 87), ("ptx", 87)],
    ),
}


def marks(name: str) -> list[pytest.MarkDecorator]:
    """One process compiles each."""
    slow = [] if name == "this machine" else [pytest.mark.slow]
    return [pytest.mark.xdist_group(f"plugin library for {name}"), *slow]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=marks(name)) for name in BUILDS])
def build(request: pytest.FixtureRequest) -> Build:
    return BUILDS[request.param]


@pytest.fixture(scope="module")
def registry(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    with skipping_what_is_missing():
        return build.registry(tmp_path_factory.mktemp("registry"))


def good(spec: OpSpec) -> list[Field]:
    return [(a.name, "FLOAT32" if a.type == "float" else "INT32", [1]) for a in spec.attrs]


def errors(registry: Registry, requests: list[tuple[OpSpec, list[Field]]]) -> list[str]:
    return registry.ask([(spec.name, fields) for spec, fields in requests]).errors


def refused(registry: Registry, requests: list[tuple[OpSpec, list[Field]]], *parts: str) -> None:
    for (spec, _), message in zip(requests, errors(registry, requests), strict=True):
        assert message.startswith(f"node: {spec.name}: "), message
        for part in ("found", "allowed", f"plugins/{spec.name}/README.md", *parts):
            assert part in message


def test_the_registry_lists_every_op_with_its_fields(registry: Registry) -> None:
    expected = {
        spec.name: (
            "1",
            [(name, kind) for name, kind, _ in good(spec)] + [("row_offsets", "INT32"), ("sizes", "INT32")],
        )
        for spec in SPECS
    }
    assert registry.ask([]).creators == expected


def test_doctor_loads_a_library_of_this_machine_and_no_other(registry: Registry) -> None:
    pytest.importorskip("tensorrt_lean_bindings", reason="pip install tensorrt-lean-cu12-bindings")
    words = [sys.executable, "-m", "quamba_export.exporter.cli", "doctor", "--json", "--plugins"]
    said = json.loads(subprocess.run([*words, registry.library], capture_output=True, text=True).stdout)
    (check,) = (check for check in said["checks"] if check["name"] == "plugins")
    if "qemu" in registry.command[0]:
        assert (check["state"], "does not load" in check["found"]) == ("wrong", True)
    else:
        assert (check["state"], check["found"]) == (
            "ok",
            f"{registry.library}: creators of all {len(SPECS)} ops, contracts {contracts_digest()}",
        )


def test_every_plugin_is_created_from_its_fields(registry: Registry) -> None:
    calls = [(spec, good(spec)) for spec in SPECS]
    for spec in SPECS:
        rows: list[float] = [3 if strided(t) else -1 for t in spec.inputs]
        sizes: list[float] = [4] * len(letters(spec))
        calls.append((spec, [*good(spec), ("row_offsets", "INT32", rows), ("sizes", "INT64", sizes)]))
    assert errors(registry, calls) == [""] * len(calls)


def test_a_missing_attribute_is_named(registry: Registry) -> None:
    for_each = [(spec, i) for spec in SPECS for i in range(len(spec.attrs))]
    calls = [(spec, [f for k, f in enumerate(good(spec)) if k != i]) for spec, i in for_each]
    for (spec, i), message in zip(for_each, errors(registry, calls), strict=True):
        assert "missing attribute" in message
        assert f"'{spec.attrs[i].name}'" in message


def test_an_unknown_field_is_named(registry: Registry) -> None:
    refused(
        registry,
        [(s, [*good(s), ("scale_of_x", "FLOAT32", [1])]) for s in SPECS],
        "unknown field",
        "scale_of_x",
    )


def test_a_field_given_twice_is_refused(registry: Registry) -> None:
    refused(registry, [(s, [*good(s), good(s)[0]]) for s in SPECS if s.attrs], "twice")


def with_value(spec: OpSpec, name: str, kind: str, values: list[float]) -> list[Field]:
    return [(name, kind, values) if f[0] == name else f for f in good(spec)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1.0, 1e-44])
def test_a_value_that_is_no_scale_is_refused(registry: Registry, value: float) -> None:
    calls = [
        (spec, with_value(spec, attr.name, "FLOAT32", [value]))
        for spec in SPECS
        for attr in spec.attrs
        if attr.type == "float" and attr.values == "positive"
    ]
    refused(registry, calls, "is out of range")


def test_a_wrong_type_is_refused(registry: Registry) -> None:
    other = {"float": "INT32", "int": "FLOAT32"}
    calls = [(s, with_value(s, a.name, other[a.type], [1])) for s in SPECS for a in s.attrs]
    refused(registry, calls, "has the wrong type")


def test_a_wrong_length_is_refused(registry: Registry) -> None:
    kinds = {"float": "FLOAT32", "int": "INT32"}
    calls = [(s, with_value(s, a.name, kinds[a.type], [1, 1])) for s in SPECS for a in s.attrs]
    calls += [(s, [*good(s), ("sizes", "INT32", [1])]) for s in SPECS]
    refused(registry, calls, "has the wrong length")


def test_row_offsets_are_for_rows_only(registry: Registry) -> None:
    calls: list[tuple[OpSpec, list[Field]]] = [
        (s, [*good(s), ("row_offsets", "INT32", [0] * len(s.inputs))])
        for s in SPECS
        if not all(strided(t) for t in s.inputs)
    ]
    refused(registry, calls, "'row_offsets'", "-1, as its shape is")


def test_the_library_names_its_contracts(registry: Registry) -> None:
    assert registry.ask([]).contracts == contracts_digest()


def test_every_kernel_is_compiled_for_the_gpus(build: Build, registry: Registry) -> None:
    files = device_code(registry.library)
    assert len(files) >= len(SPECS)
    assert all(code == build.code for code in files), files


def test_every_kernel_is_told_to_be_compiled_for_every_gpu(tmp_path: Path) -> None:
    """All of them as RMSNormQuantize is, optimized as users have it; `make plugin-test` compiles them all."""
    with skipping_what_is_missing():
        folder = configured(native_tools(), ARCHITECTURES, tmp_path)
    commands = json.loads((folder / "compile_commands.json").read_text())
    kernels = [c for c in commands if c["file"].endswith(".cu")]
    assert len(kernels) >= len(SPECS)
    assert len({gpu_words(c["command"]) for c in kernels}) == 1
    target = "CMakeFiles/quamba_plugins.dir/RMSNormQuantize/launch.cu.o"
    subprocess.run([find_tool("ninja"), "-C", folder, target], check=True, capture_output=True)
    assert device_code(folder / target) == [images(ARCHITECTURES)]


def gpu_words(command: str) -> tuple[str, ...]:
    """For which GPUs nvcc compiles by this command."""
    return tuple(word for word in shlex.split(command) if word.startswith("--generate-code="))


def test_no_path_of_the_machine_that_compiled_it_is_searched(registry: Registry) -> None:
    read = subprocess.run(["readelf", "-d", registry.library], capture_output=True, text=True, check=True)
    assert "PATH" not in read.stdout


def test_the_library_gives_its_c_functions_and_no_others(registry: Registry) -> None:
    command = ["readelf", "--dyn-syms", "--wide", registry.library]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in read.splitlines() if "GLOBAL" in line and " UND " not in line]
    launchers = {
        f"quamba_{spec.name}_{name}" for spec in SPECS for name in ("refusal", "workspace", "launch")
    }
    others = {"quamba_argmax", "getCreators", "setLoggerFinder"}
    others |= {f"quamba_plugins_{what}" for what in ("version", "cuda", "driver")}
    assert {row[-1] for row in rows} == launchers | others


def test_no_product_and_sum_become_one(build: Build, tmp_path: Path) -> None:
    """RMSNormQuantize has sums of products in fp64, and no fma in its source."""
    with skipping_what_is_missing():
        folder = configured(build.tools(), [87], tmp_path)
    commands = json.loads((folder / "compile_commands.json").read_text())
    command = next(c["command"] for c in commands if c["file"].endswith("/RMSNormQuantize/launch.cu"))
    words = [word for word in shlex.split(command) if not word.startswith("--generate-code=")]
    to_ptx = ["-S", "--cuda-device-only"] if "-xcuda" in words else ["-ptx", "-arch=compute_87"]
    words[words.index("-c") : words.index("-c") + 1] = to_ptx
    words[words.index("-o") + 1] = "kernel.ptx"
    subprocess.run(words, cwd=tmp_path, check=True)
    ptx = (tmp_path / "kernel.ptx").read_text()
    assert "mul.rn.f64" in ptx or "mul.f64" in ptx
    assert "fma.rn.f" not in ptx


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
