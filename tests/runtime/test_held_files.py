"""What is loaded is what was checked: every exchange and every write between the check and the load."""

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from numpy.random import bit_generator
from tiny_recurrent import write_tiny_export

from quamba_export.runtime import bundle
from quamba_export.runtime.bundle import open_bundle
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import FileEntry, entry_of
from quamba_export.runtime.held_files import HeldFiles, shown

FILES = (
    "chat_template.jinja",
    "config.json",
    "decode.engine",
    "libquamba_plugins.so",
    "prefill.engine",
    "tokenizer.json",
    "tokenizer_config.json",
    "weights.bin",
)
CHAT = ("chat_template.jinja", "tokenizer_config.json")
PARSED = (*CHAT, "decode.engine", "libquamba_plugins.so", "prefill.engine", "tokenizer.json")
GOOD, EVIL = b"good" * 1000, b"evil" * 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """In form a TensorRT bundle, whose plugin library is a library."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(GOOD)
    (folder / "manifest.json").write_bytes(b"{}")
    return folder


@pytest.fixture
def held(folder: Path) -> Iterator[HeldFiles]:
    with HeldFiles(folder) as files:
        files.content("manifest.json")
        files.check("manifest.json", {name: entry_of(folder / name) for name in FILES})
        yield files


def rename_over(path: Path) -> None:
    other = path.parent.parent / "other"
    other.write_bytes(EVIL)
    other.replace(path)


def link_over(path: Path) -> None:
    other = path.parent.parent / "other"
    other.write_bytes(EVIL)
    path.unlink()
    path.symlink_to(other)


def rename_over_and_back(path: Path) -> None:
    kept = path.parent.parent / "kept"
    path.rename(kept)
    path.write_bytes(EVIL)
    kept.replace(path)


def exchange_folders(path: Path) -> None:
    folder = path.parent
    shutil.copytree(folder, folder.with_name("copy"))
    (folder.with_name("copy") / path.name).write_bytes(EVIL)
    folder.rename(folder.with_name("first"))
    folder.with_name("copy").rename(folder)


def remove(path: Path) -> None:
    path.unlink()


def write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(EVIL)


def write_into_and_set_its_times(path: Path) -> None:
    before = path.stat()
    write_into(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


EXCHANGES = [rename_over, link_over, rename_over_and_back, exchange_folders, remove]
WRITES = [write_into, write_into_and_set_its_times]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("attack", EXCHANGES)
def test_an_exchange_of_names_does_not_reach_what_is_loaded(
    held: HeldFiles, folder: Path, name: str, attack: Callable[[Path], None]
) -> None:
    attack(folder / name)
    assert held.location(name).read_bytes() == GOOD


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("attack", [rename_over, link_over, rename_over_and_back, remove, *WRITES])
def test_an_exchange_or_a_write_is_seen_after_the_load(
    held: HeldFiles, folder: Path, name: str, attack: Callable[[Path], None]
) -> None:
    held.check_unchanged()
    attack(folder / name)
    with pytest.raises(QuambaError, match=f"{name} has changed") as caught:
        held.check_unchanged()
    assert caught.value.code is ExitCode.INTEGRITY


@pytest.mark.parametrize("name", PARSED)
@pytest.mark.parametrize("attack", WRITES)
def test_what_is_parsed_or_executed_is_refused_once_it_was_written_to(
    held: HeldFiles, folder: Path, name: str, attack: Callable[[Path], None]
) -> None:
    attack(folder / name)
    with pytest.raises(QuambaError, match=f"{name} has changed") as caught:
        held.location(name)
    assert (caught.value.code, "sha256" in caught.value.found) == (ExitCode.INTEGRITY, True)


@pytest.mark.parametrize("name", PARSED)
def test_nobody_can_write_to_a_sealed_copy(held: HeldFiles, folder: Path, name: str) -> None:
    copy = held.location(name)
    write_into(folder / name)
    assert copy.read_bytes() == GOOD
    assert held.location(name) == copy
    with pytest.raises(OSError, match="not permitted"), copy.open("r+b", buffering=0) as file:
        file.write(EVIL)
    assert copy.read_bytes() == GOOD


def test_a_library_is_loaded_from_the_sealed_copy(folder: Path) -> None:
    shutil.copyfile(bit_generator.__file__, folder / "libquamba_plugins.so")
    with HeldFiles(folder) as files:
        files.check("manifest.json", {name: entry_of(folder / name) for name in FILES})
        rename_over(folder / "libquamba_plugins.so")
        library = ctypes.CDLL(str(files.location("libquamba_plugins.so")))
    assert library.PyInit_bit_generator  # which is still there after the files are closed


def test_a_location_is_shown_as_the_file_it_leads_to(held: HeldFiles, folder: Path) -> None:
    assert [shown(held.location(name)) for name in FILES] == [str(folder / name) for name in FILES]
    assert shown(Path("some/file")) == "some/file"


@pytest.mark.parametrize("size", [len(GOOD), 1])
def test_descriptors_are_closed_also_after_a_refusal(folder: Path, size: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    entries = {name: entry_of(folder / name) for name in FILES}
    entries["weights.bin"] = FileEntry("0" * 64, size)
    with pytest.raises(QuambaError, match="has changed"), HeldFiles(folder) as files:
        files.check("manifest.json", entries)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuambaError, match="cannot be opened"):
        HeldFiles(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "config.json", "export.json"])
@pytest.mark.parametrize("attack", [rename_over_and_back, write_into])
def test_a_bundle_that_changes_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, attack: Callable[[Path], None]
) -> None:
    export = write_tiny_export(tmp_path / "export")

    def attacked(*arguments: Any, **options: Any) -> OrtEngine:
        engine = OrtEngine(*arguments, **options)
        attack(export / name)
        return engine

    monkeypatch.setattr(bundle, "OrtEngine", attacked)
    with pytest.raises(QuambaError, match=f"{name} has changed") as caught:
        open_bundle(export, threads=1)
    assert caught.value.code is ExitCode.INTEGRITY


def test_a_tokenizer_written_to_while_the_bundle_is_opened_is_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = write_tiny_export(tmp_path / "export")

    def attacked(*arguments: Any, **options: Any) -> OrtEngine:
        write_into(export / "tokenizer.json")
        return OrtEngine(*arguments, **options)

    monkeypatch.setattr(bundle, "OrtEngine", attacked)
    with pytest.raises(QuambaError, match="has changed"):
        open_bundle(export, threads=1)
