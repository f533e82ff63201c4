"""`make demo`'s own commands, as make prints them, on a tiny model: every stage writes and reads its folder
where the demo has it, beside the JSON files of the stages before it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tiny_flow import CONFIGS, write_tiny_checkpoint, write_words

from quamba_export.calib.output_directory import kind_of
from quamba_export.exporter import cli

ROOT = Path(__file__).parents[1]
SMALLER = {
    "MODELS": "tiny",
    "CLI": "quamba-export",
    "CALIBRATION_TEXT": "embedded/validation.txt --calib-size 4 --calib-seqlen 32",
    "VALIDATION_TEXT": "embedded/validation.txt --max-tokens 64",
}
FILES = {
    *("calibrate.json", "export.json", "build.json", "compare.json", "run.json"),
    *("eval-float.json", "eval-prefill.json", "eval-decode.json"),
    *("inspect-checkpoint.json", "inspect-calibration.json", "inspect-export.json"),
}
KINDS = {"calibration", "export", "bundle"}


def demo_commands() -> Iterator[tuple[list[str], str]]:
    """Words of every command of the demo, in order, and the file that its standard output goes to, or ""."""
    make = ["make", "--dry-run", "--no-print-directory", "demo", *(f"{k}={v}" for k, v in SMALLER.items())]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    printed = subprocess.run(make, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    for line in printed.stdout.splitlines():
        words, out = shlex.split(line), ""
        if words[0] == "ci/step":
            out, words = (words[2], words[4:]) if words[1] == "-o" else ("", words[2:])
        if ">" in words:
            *words, _, out = words
        yield words, out


def run(words: list[str], out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command of quamba-export, in this process."""
    monkeypatch.setattr(sys, "argv", words)
    with open(out or os.devnull, "w") as file, redirect_stdout(file), pytest.raises(SystemExit) as leaving:
        cli.main()
    assert not leaving.value.code, words


def test_every_stage_of_the_demo_finds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_checkpoint(tmp_path / "embedded/tiny", CONFIGS["mamba2"])
    write_words(tmp_path / "embedded/validation.txt")
    demo = tmp_path / "demo-out/tiny"
    demo.mkdir(parents=True)
    commands = [(words, out) for words, out in demo_commands() if words[0] == "quamba-export"]
    for _ in range(2):  # and over what an earlier one left
        for words, out in commands:
            run(words, out, monkeypatch)
    assert {path.name for path in demo.iterdir()} == FILES | KINDS
    assert {name: kind_of(demo / name) for name in KINDS} == {name: name for name in KINDS}
    assert "tiny" in (tmp_path / "demo-out/report.html").read_text()
    summary = [sys.executable, ROOT / "ci/summary.py", "demo-out"]
    table = subprocess.run(summary, capture_output=True, text=True, check=True).stdout
    assert table.splitlines()[1].split()[0] == "tiny"
