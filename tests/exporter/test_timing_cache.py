"""The timing cache: kept by what it was timed with; what cannot be used is told and left out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from quamba_export.exporter.tensorrt.timing_cache import TimingCache, cache_key, default_path

BUILD = {"gpu": "NVIDIA H200", "sm": 90, "tensorrt": "10.6.0", "plugins": b"library", "settings": "no TF32"}
KEY = cache_key(**BUILD)  # type: ignore[arg-type]
TACTICS = b"tactics\nof\n\nseveral lines\n"


@pytest.fixture
def cache(tmp_path: Path) -> TimingCache:
    return TimingCache(tmp_path / "folder" / "tactics.cache", KEY)


def test_what_is_written_is_read_back(cache: TimingCache, capsys: pytest.CaptureFixture[str]) -> None:
    assert cache.read() == b""
    cache.write(TACTICS)
    assert cache.read() == TACTICS
    cache.write(b"")
    assert cache.read() == b""
    assert capsys.readouterr().err == ""
    assert [path.name for path in cache.path.parent.iterdir()] == ["tactics.cache"]


@pytest.mark.parametrize(
    ("part", "value"),
    [("gpu", "NVIDIA H100"), ("sm", 89), ("tensorrt", "10.7.0"), ("plugins", b"other"), ("settings", "TF32")],
)
def test_tactics_of_another_build_are_left_out(
    cache: TimingCache, part: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    key = cache_key(**BUILD | {part: value})  # type: ignore[arg-type]
    assert default_path(key) != default_path(KEY)
    cache.write(TACTICS)
    other = TimingCache(cache.path, key)
    assert other.read() == b""
    assert "another GPU, TensorRT, plugin library or builder setting" in capsys.readouterr().err
    other.write(b"new")
    assert other.read() == b"new"


@pytest.mark.parametrize("position", [-1, -len(TACTICS), -len(TACTICS) - 2])
def test_a_damaged_file_is_left_out(
    cache: TimingCache, position: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write(TACTICS)
    content = bytearray(cache.path.read_bytes())
    content[position] ^= 1
    cache.path.write_bytes(content)
    assert cache.read() == b""
    assert capsys.readouterr().err == f"timing cache {cache.path} is not used: it is damaged\n"
    cache.path.write_bytes(content[:40])
    assert cache.read() == b""
    assert "is not used" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"my thesis", b"\xff\xfe\n\n\n"])
def test_a_file_of_somebody_else_is_neither_used_nor_replaced(
    cache: TimingCache, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.path.parent.mkdir()
    cache.path.write_bytes(content)
    assert cache.read() == b""
    assert "no timing cache of quamba-export, and stays as it is" in capsys.readouterr().err
    cache.write(TACTICS)
    assert cache.path.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    TimingCache(tmp_path / "file" / "cache", KEY).write(TACTICS)
    assert "is not kept: " in capsys.readouterr().err


def test_a_path_that_is_no_file_is_told_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = TimingCache(tmp_path, KEY)
    assert cache.read() == b""
    assert f"timing cache {tmp_path} is not used: Is a directory" in capsys.readouterr().err
    cache.write(TACTICS)
    assert "is not kept: Is a directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing_behind(
    cache: TimingCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    cache.write(TACTICS)
    assert "is not kept: No space left" in capsys.readouterr().err
    assert list(cache.path.parent.iterdir()) == []


def test_two_writers_in_containers_that_share_the_folder_do_not_meet(
    cache: TimingCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def meanwhile(descriptor: int) -> None:
        """The other one writes, whole, before this one is done."""
        monkeypatch.setattr(os, "fsync", fsync)
        cache.write(b"other")
        assert cache.read() == b"other"

    monkeypatch.setattr(os, "fsync", meanwhile)
    cache.write(TACTICS)
    assert cache.read() == TACTICS
