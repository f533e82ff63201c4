"""The files of a bundle: a hostile directory for every rule."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_bundle import change, refused, write_tiny_bundle

from quamba_export.runtime import held_files
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import read_manifest


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../model.onnx",
        "/etc/passwd",
        "a/b",
        "..",
        ".",
        "sub\\model.onnx",
        "./model.onnx",
        "model.onnx/",
        "//x",
    ],
)
def test_a_name_that_leaves_the_directory_is_refused(bundle: Path, name: str) -> None:
    change(bundle, lambda record: record["files"].update({name: record["files"]["config.json"]}))
    refused(bundle, "leaves its directory", ExitCode.INTEGRITY)


@pytest.mark.parametrize(
    "name",
    [
        "run.sh",
        "model.onnx ",
        "Model.onnx",
        "",
        ".manifest.json",
        "libplugin.so",
        "model.\u03bfnnx",  # a Greek omicron
        "\uff43onfig.json",  # a wide c
        "config\u200b.json",  # a space of no width
        "\u202enosj.gifnoc",  # written from the right
        "model.sig",  # signs the manifest, so it is not in it
        "x" * 200,
    ],
)
def test_a_listed_file_that_is_not_on_the_allowlist_is_refused(bundle: Path, name: str) -> None:
    (bundle / (name or "x")).write_text("{}")
    change(bundle, lambda record: record["files"].update({name: record["files"]["config.json"]}))
    refused(bundle, "may not be there", ExitCode.INTEGRITY)


def test_the_model_must_be_listed(bundle: Path) -> None:
    change(bundle, lambda record: record["files"].pop("model.onnx"))
    refused(bundle, r"does not list model\.onnx", ExitCode.INTEGRITY)


@pytest.mark.parametrize("name", ["\ud800", "model.onnx\0", "config.json\0.txt"])
def test_a_listed_name_that_no_file_can_have_is_refused(bundle: Path, name: str) -> None:
    change(bundle, lambda record: record["files"].update({name: record["files"]["config.json"]}))
    refused(bundle, "may not be there", ExitCode.INTEGRITY)


def test_a_letter_of_another_script_is_seen_in_the_message(bundle: Path) -> None:
    (bundle / "m\u043edel.onnx").write_text("")
    assert r"m\u043edel.onnx" in refused(bundle, "does not list", ExitCode.INTEGRITY).found


def hide_a_file(folder: Path) -> None:
    (folder / ".hidden").write_text("")


def add_a_folder(folder: Path) -> None:
    (folder / "sub").mkdir()


def keep_the_export_record(folder: Path) -> None:
    (folder / "export.json").write_text("{}")


@pytest.mark.parametrize("add", [hide_a_file, add_a_folder, keep_the_export_record])
def test_what_the_manifest_does_not_list_is_refused(bundle: Path, add: Callable[[Path], None]) -> None:
    add(bundle)
    refused(bundle, "does not list", ExitCode.INTEGRITY)


def test_a_missing_file_is_refused(bundle: Path) -> None:
    (bundle / "generation_config.json").unlink()
    refused(bundle, "lacks a file", ExitCode.INTEGRITY)


def test_a_changed_byte_is_refused(bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx.data").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx.data").write_bytes(content)
    assert "sha256" in refused(bundle, r"model\.onnx\.data has changed", ExitCode.INTEGRITY).found


def test_a_longer_file_is_refused_before_anything_is_hashed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_files, "digest_of", None)
    with (bundle / "tokenizer.json").open("ab") as file:
        file.write(b" ")
    assert "bytes" in refused(bundle, r"tokenizer\.json has changed", ExitCode.INTEGRITY).found


def test_a_file_beyond_its_limit_is_refused_unread(bundle: Path) -> None:
    with (bundle / "config.json").open("r+b") as file:
        file.truncate(1 << 33)  # sparse
    refused(bundle, r"config\.json is too large", ExitCode.INTEGRITY)


def test_a_manifest_beyond_its_limit_is_refused_unread(bundle: Path) -> None:
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(1 << 33)
    refused(bundle, r"manifest\.json is too large", ExitCode.INTEGRITY)


def symbolic_link(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


def hard_link(path: Path) -> None:
    os.link(path, path.parent.parent / "elsewhere")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unix_socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's path has a short limit
        server.bind(path.name)
        os.chdir(here)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.onnx.data", "tokenizer.json"])
@pytest.mark.parametrize("swap", [symbolic_link, hard_link, fifo, folder, unix_socket])
def test_anything_but_a_plain_file_is_refused(bundle: Path, name: str, swap: Callable[[Path], None]) -> None:
    swap(bundle / name)
    refused(bundle, rf"{name} (cannot be used|has other names)", ExitCode.INTEGRITY)


def test_a_link_to_the_whole_directory_is_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert read_manifest(tmp_path / "current").kind == "bundle"
