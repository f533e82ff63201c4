"""A folder of a cache is filled once, whoever asks and however often; a fill that fails leaves nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from quamba_export.exporter.kept_folder import kept_folder


@pytest.fixture(scope="module", autouse=True)
def handler_of_a_command() -> None:
    """What a fixture of a module leaves that runs a command in this process."""
    signal.signal(signal.SIGTERM, lambda number, frame: None)


def fill_slowly(new: Path) -> None:
    (new / f"filled by {os.getpid()}").touch()
    time.sleep(0.2)
    (new / "end").touch()


def ask(target: Path) -> list[str]:
    return sorted(os.listdir(kept_folder(target, fill_slowly)))


def test_of_several_processes_one_fills_and_all_see_the_whole(tmp_path: Path) -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # else a worker of the pool may outlive its end
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        seen = pool.map(ask, [tmp_path / "deep" / "kept"] * 4, chunksize=1)
    assert seen == [seen[0]] * 4
    assert [name[:6] for name in seen[0]] == ["end", "filled"]
    assert sorted(os.listdir(tmp_path / "deep")) == [".kept.lock", "kept"]


def test_a_fill_that_fails_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    def fail(new: Path) -> None:
        (new / "half").touch()
        raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        kept_folder(tmp_path / "kept", fail)
    assert os.listdir(tmp_path) == [".kept.lock"]
    assert len(os.listdir(kept_folder(tmp_path / "kept", fill_slowly))) == 2


def test_what_a_killed_process_left_is_not_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".kept.abc").mkdir()
    (tmp_path / ".kept.abc" / "half").touch()
    (tmp_path / ".kept.lock").touch()
    kept_folder(tmp_path / "kept", lambda new: (new / "all").touch())
    assert os.listdir(tmp_path / "kept") == ["all"]


def test_what_a_killed_fill_left_is_removed(tmp_path: Path) -> None:
    left, other = tmp_path / ".kept.k1ll3d" / "new", tmp_path / ".other.running"
    left.mkdir(parents=True)
    other.mkdir()
    kept_folder(tmp_path / "kept", lambda new: (new / "file").touch())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".kept.lock", ".other.running", "kept"]
