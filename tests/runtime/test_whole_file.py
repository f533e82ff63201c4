"""A file that is whole or not there, and what killed writers leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quamba_export.runtime.whole_file import ABANDONED_SECONDS, whole_file

KILLED = """
import os, signal, sys
from pathlib import Path
from quamba_export.runtime.whole_file import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def test_a_kill_leaves_the_older_one_and_its_rest_goes_in_time(tmp_path: Path) -> None:
    path, other = tmp_path / "a[b]", tmp_path / ".a[b].txt.7.partial.mine"
    write(path, b"first")
    other.touch()
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == b"first"
    (left,) = tmp_path.glob("*.partial")
    write(path, b"second")
    assert left.exists()  # somebody may be writing to it
    os.utime(left, (0, time.time() - ABANDONED_SECONDS - 1))
    write(path, b"third")
    assert sorted(tmp_path.iterdir()) == [other, path]
    assert path.read_bytes() == b"third"


def test_an_error_leaves_the_older_one_alone(tmp_path: Path) -> None:
    write(tmp_path / "a", b"first")
    with pytest.raises(TypeError), whole_file(tmp_path / "a") as file:
        file.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert (tmp_path / "a").read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_two_writers_do_not_share_a_file(tmp_path: Path) -> None:
    """As two containers do that write to one folder: in each the process has the same number."""
    path = tmp_path / "a"
    with whole_file(path) as one:
        one.write(b"first, and the longer one")
        one.flush()
        write(path, b"second")
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first, and the longer one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_names_are(tmp_path: Path) -> None:
    path = tmp_path / ("\N{GRINNING FACE}" * 63)  # 252 bytes
    write(path, b"content")
    assert list(tmp_path.iterdir()) == [path]
