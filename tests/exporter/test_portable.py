"""`build --portable`: what a device needs to build its own engines, without torch; and a hostile tar file."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_registry import native_tools, skipping_what_is_missing
from tiny_flow import Flow, run_json

from quamba_export.exporter.bundle.portable import engine_graphs
from quamba_export.exporter.deploy.plan import Choices, plan_deployment
from quamba_export.exporter.plugin_build.library import configured, run_tool
from quamba_export.exporter.plugin_build.sources import (
    MAX_MEMBER_BYTES,
    PluginSources,
    carried_sources,
    own_sources,
    sources_of,
    write_sources,
)
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import GRAPHS, PLUGIN_SOURCES, entry_of
from quamba_export.runtime.manifest import read_manifest

WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name, name="torch")
sys.meta_path.insert(0, Blocked())
from pathlib import Path
from quamba_export.exporter.tensorrt import build as tensorrt_build
from quamba_export.exporter.bundle.build import build_bundle
from quamba_export.exporter.plugin_build.sources import sources_of
from quamba_export.exporter.bundle.portable import engine_graphs
from quamba_export.exporter.tensorrt.weights import weight_table
from quamba_export.runtime.manifest import read_manifest
import onnx
portable, out = map(Path, sys.argv[1:])
build_bundle(portable, "cpu", out)
model = onnx.load(portable / "model.onnx", load_external_data=False)
with sources_of(portable, read_manifest(portable)) as sources:
    print(len(sources.files()), len(weight_table(engine_graphs(portable)["prefill"], model)))
"""


@pytest.fixture(scope="module")
def portable(flow: Flow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portable") / "bundle"
    made = run_json("build", flow.export, "--portable", "-o", folder)
    assert (made["kind"], made["target"]) == ("export", "any")
    return folder


def test_it_is_the_export_with_graphs_and_sources(portable: Path, flow: Flow) -> None:
    export, manifest = read_manifest(flow.export), read_manifest(portable)
    assert set(manifest.files) - set(export.files) == {*GRAPHS.values(), PLUGIN_SOURCES}
    assert manifest.export_digest == export.digest != manifest.digest
    assert engine_graphs(portable) == engine_graphs(flow.export)
    with sources_of(portable, manifest) as carried:
        assert digest(carried) == digest(own_sources())


def test_sources_exchanged_after_their_check_are_not_compiled(portable: Path, tmp_path: Path) -> None:
    export = shutil.copytree(portable, tmp_path / "portable")
    manifest = read_manifest(export)
    with tarfile.open(export / PLUGIN_SOURCES, "a") as archive:
        member("RMSNormQuantize/more.cu")(archive)
    with pytest.raises(QuambaError, match="has changed") as caught, sources_of(export, manifest):
        pass
    assert caught.value.code is ExitCode.INTEGRITY


def test_the_bundle_made_of_it_is_the_export_s(portable: Path, flow: Flow, tmp_path: Path) -> None:
    run_json("build", portable, "--target", "cpu", "-o", tmp_path / "bundle")
    assert read_manifest(tmp_path / "bundle").digest == read_manifest(flow.bundle).digest


def test_plugins_compiled_beforehand_are_deployed_with_it(
    portable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device then needs no compiler; what it builds is of the same export."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (tmp_path / "compiled.so").write_bytes(
        bytes.fromhex("7f454c46 02010100 0000000000000000 0300b700") + b"rest"
    )
    words = ("--target", "agx-orin", "--plugins", tmp_path / "compiled.so", "-o", tmp_path / "prepared")
    run_json("build", portable, *words)
    made = plan_deployment(tmp_path / "prepared", Choices(target="agx-orin"))
    assert {"libquamba_plugins.so", PLUGIN_SOURCES} <= set(made.manifest.files)
    assert made.wanted() == {"export": read_manifest(portable).export_digest}


def test_making_it_again_gives_the_same_bytes(portable: Path, tmp_path: Path) -> None:
    run_json("build", portable, "--portable", "-o", tmp_path / "again")
    assert read_manifest(tmp_path / "again").files == read_manifest(portable).files


def test_a_device_needs_no_torch(portable: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(portable), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files, weights = map(int, done.stdout.split()[-2:])
    assert (files, weights > 0) == (len(own_sources().files()), True)


def test_a_target_or_portable(flow: Flow, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    run_json("build", flow.export, *out, exit_code=2)
    run_json("build", flow.export, "--portable", "--target", "cpu", *out, exit_code=2)
    run_json("build", flow.export, "--portable", "--max-batch", 2, *out, exit_code=2)
    run_json("build", flow.bundle, "--portable", *out, exit_code=3)


def test_its_record_is_checked(portable: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(portable, tmp_path / "bundle"))
    record = json.loads((folder / "export.json").read_text())
    for wrong in ({}, {"export": "x"}, {"export": "a" * 64, "more": 1}, None):
        (folder / "export.json").write_text(json.dumps(record | {"portable": wrong}))
        with pytest.raises(QuambaError, match="portable"):
            read_manifest(folder)


def digest(sources: PluginSources) -> str:
    found = hashlib.sha256()
    sources.update(found)
    return found.hexdigest()


def member(
    name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> Callable[..., None]:
    def add(archive: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, link, len(content) if kind == tarfile.REGTYPE else 0
        archive.addfile(info, io.BytesIO(content))

    return add


HOSTILE = {
    "leaves upwards": member("../kernel.cu"),
    "leaves to the root": member("/etc/kernel.cu"),
    "leaves in the middle": member("op/../../kernel.cu"),
    "too deep": member("a/b/kernel.cu"),
    "hidden": member(".bashrc.txt"),
    "another ending": member("op/run.sh"),
    "no ending": member("Makefile"),
    "a zero byte": member("op/kernel.cu\n.sh"),
    "a letter of another script": member("op/kern\u0435l.cu"),
    "a symbolic link": member("op/kernel.cu", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a hard link": member("op/kernel.cu", kind=tarfile.LNKTYPE, link="/etc/passwd"),
    "a FIFO": member("op/kernel.cu", kind=tarfile.FIFOTYPE),
    "a device": member("op/kernel.cu", kind=tarfile.CHRTYPE),
    "a folder": member("op.cu", kind=tarfile.DIRTYPE),
    "too large": member("op/kernel.cu", b"x" * (MAX_MEMBER_BYTES + 1)),
}


@pytest.mark.parametrize("add", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_tar_file_is_refused(tmp_path: Path, add: Callable[[tarfile.TarFile], None]) -> None:
    with tarfile.open(tmp_path / "sources.tar", "w") as archive:
        member("contracts.h")(archive)
        add(archive)
    refused(tmp_path / "sources.tar", "is no plugin source")


def test_a_file_twice_too_many_or_none_are_refused(tmp_path: Path) -> None:
    for names, text in (
        (["a.h", "a.h"], "is no plugin source"),
        ([f"a{i}.h" for i in range(1001)], "too many"),
    ):
        with tarfile.open(tmp_path / "sources.tar", "w") as archive:
            for name in names:
                member(name)(archive)
        refused(tmp_path / "sources.tar", text)
    with tarfile.open(tmp_path / "sources.tar", "w") as archive:
        member("op/kernel.cu")(archive)
    refused(tmp_path / "sources.tar", "no plugin sources")
    for content in (b"", b"no tar" * 200, (tmp_path / "sources.tar").read_bytes()[:700]):
        (tmp_path / "sources.tar").write_bytes(content)
        refused(tmp_path / "sources.tar", "sources")


def refused(path: Path, text: str) -> None:
    with (
        pytest.raises(QuambaError, match=text) as caught,
        carried_sources(path, hashlib.sha256(path.read_bytes()).hexdigest()),
    ):
        pass
    assert caught.value.code is ExitCode.INTEGRITY


@pytest.mark.slow
def test_the_carried_sources_compile(tmp_path: Path) -> None:
    """One op of the library for one GPU; ninja knows of no other sources than those in the tar file."""
    with skipping_what_is_missing():
        tools = native_tools()
    write_sources(own_sources(), tmp_path / PLUGIN_SOURCES)
    with carried_sources(tmp_path / PLUGIN_SOURCES, entry_of(tmp_path / PLUGIN_SOURCES).sha256) as sources:
        build = configured(tools, [90], tmp_path, sources)
        target = "CMakeFiles/quamba_plugins.dir/RMSNormQuantize/launch.cu.o"
        run_tool([str(tools.ninja), "-C", str(build), target], build, "cannot compile the plugin library")
    assert (build / target).stat().st_size > 1000
