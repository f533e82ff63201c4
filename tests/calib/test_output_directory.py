"""An artefact directory appears whole, and replaces nothing but an earlier one of its kind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from refusals import refused

from quamba_export.calib import output_directory
from quamba_export.calib.output_directory import check_replaceable, written_directory
from quamba_export.runtime.errors import ExitCode

MANIFEST = {"schema_version": 1, "kind": "bundle"}


def write(target: Path, content: str = "new") -> None:
    with written_directory(target, "bundle") as folder:
        (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"content": content}))


def content(target: Path) -> str:
    return str(json.loads((target / "manifest.json").read_text())["content"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_made_with_its_parents_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a" / "bundle"
    write(target, "first")
    write(target, "second")
    assert content(target) == "second"
    assert names(tmp_path / "a") == ["bundle"]


def test_a_failure_leaves_the_older_one(tmp_path: Path) -> None:
    write(tmp_path / "bundle", "first")
    with pytest.raises(OSError, match="disk"), written_directory(tmp_path / "bundle", "bundle"):
        raise OSError("disk")
    assert content(tmp_path / "bundle") == "first"
    assert names(tmp_path) == ["bundle"]


def test_the_later_of_two_that_write_one_place_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither sees the other's before it renames; a stranger's folder that came up meanwhile is kept."""
    exists = Path.exists
    with monkeypatch.context() as patch, written_directory(tmp_path / "bundle", "bundle") as folder:
        (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"content": "later"}))
        write(tmp_path / "bundle", "earlier")
        patch.setattr(Path, "exists", lambda path: path.name != "bundle" and exists(path))
    assert content(tmp_path / "bundle") == "later"
    with (
        refused("in the way", code=ExitCode.USAGE),
        written_directory(tmp_path / "other", "bundle") as folder,
    ):
        (folder / "manifest.json").write_text(json.dumps(MANIFEST))
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thesis.txt").write_text("mine")
    assert names(tmp_path / "other") == ["thesis.txt"]
    assert names(tmp_path) == ["bundle", "other"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_kill_at_any_rename_leaves_an_artefact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    """Where folders can change places no moment is without one; elsewhere two renames do it."""
    write(tmp_path / "bundle", "first")
    if not exchange:
        monkeypatch.setattr(output_directory, "_exchange", lambda a, b: False)
    seen = []
    rename = Path.rename

    def watched(self: Path, other: Path) -> Path:
        seen.append(self.name)
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", watched)
    write(tmp_path / "bundle", "second")
    assert seen == ([] if exchange else ["bundle", "new"])
    assert content(tmp_path / "bundle") == "second"
    assert names(tmp_path) == ["bundle"]


KILLED = """
import os, signal, sys
from pathlib import Path
from quamba_export.calib import output_directory
if sys.argv[2] == "rename":  # of a file system where folders cannot change places
    output_directory._exchange = lambda a, b: False
    rename = Path.rename
    def killed(self, other):
        rename(self, other)
        if self.name == "bundle":
            os.kill(os.getpid(), signal.SIGKILL)
    Path.rename = killed
with output_directory.written_directory(Path(sys.argv[1]), "bundle") as folder:
    (folder / "manifest.json").write_text('{"schema_version": 1, "kind": "bundle", "content": "killed"}')
    if sys.argv[2] == "body":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["body", "rename"])
def test_what_a_killed_writer_left_goes_with_the_next(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "bundle"
    write(target, "first")
    done = subprocess.run([sys.executable, "-c", KILLED, target, moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 2 - (moment == "rename")
    with written_directory(tmp_path / "bundle.v2", "bundle"):  # another's, and one that is at work
        with pytest.raises(OSError, match="disk"), written_directory(target, "bundle"):
            raise OSError("disk")
        assert content(target) == "first"
        (left,) = (name for name in names(tmp_path) if name != "bundle")
        assert left.startswith(".bundle.v2.")


@pytest.mark.parametrize(
    "text", ['{"name": "an app"}', '{"kind": "export"}', '{"kind": "bundle"}', "[]", "{", "\xff"]
)
def test_a_file_of_the_right_name_is_not_enough(tmp_path: Path, text: str) -> None:
    """What is replaced is deleted with everything in it, results that `--json` printed too."""
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    (tmp_path / "letters.txt").write_text("dear")
    with refused("in the way", "not an earlier bundle", code=ExitCode.USAGE):
        write(tmp_path)
    assert names(tmp_path) == ["letters.txt", "manifest.json"]


@pytest.mark.parametrize("kind", ["bundle", "export"])
def test_nothing_is_written_into_an_artefact(tmp_path: Path, kind: Literal["bundle", "export"]) -> None:
    """It would be refused from then on, for a folder too many."""
    with written_directory(tmp_path / "whole", kind) as folder:
        (folder / {"bundle": "manifest.json", "export": "export.json"}[kind]).write_text(
            json.dumps(MANIFEST | {"kind": kind})
        )
    before = names(tmp_path / "whole")
    for inside in ("whole/new", "whole/a/b"):
        with refused("would lie in a bundle or export", code=ExitCode.USAGE):
            write(tmp_path / inside)
    assert names(tmp_path / "whole") == before


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    write(link, "first")
    write(link, "second")
    assert link.is_symlink()
    assert content(tmp_path / "real") == "second"
    assert names(tmp_path) == ["link", "real"]


@pytest.mark.parametrize("out", [".", "..", "inner/.."])
def test_the_folder_the_command_runs_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner" if out == ".." else tmp_path)
    with refused(f"{out} is in the way", "runs in", code=ExitCode.USAGE):
        write(Path(out))


def test_a_mount_point_is_refused() -> None:
    with refused("a mount point", code=ExitCode.USAGE):
        check_replaceable(Path("/proc"), "calibration")
