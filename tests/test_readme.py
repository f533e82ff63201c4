"""README tells the truth: its commands run, its tables are what the code says, its links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import typer.main
from typer.testing import CliRunner

from quamba_export.exporter.cli import app
from quamba_export.runtime.errors import ExitCode

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
QUAMBA_EXPORT = Path(sys.executable).with_name("quamba-export")
COMMANDS: dict[str, typer.core.TyperCommand] = typer.main.get_command(app).commands  # type: ignore[attr-defined]

# the README's sequence runs on an embedded model with less data than its defaults take
SAMPLE = {
    "calibrate": ["--calib-size", "8", "--calib-seqlen", "64"],
    "eval": ["--window", "64", "--max-tokens", "256"],
    "run": ["--max-new-tokens", "4"],
}


def section(title: str) -> str:
    """The text below a heading, to the next heading of any depth."""
    return re.split(r"\n#+ ", README.split(f"# {title}\n", 1)[1])[0]


def table(title: str) -> list[list[str]]:
    """The cells of a section's table, below its heading row."""
    rows = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def flags_of(command: str) -> set[str]:
    return {flag for option in COMMANDS[command].params for flag in option.opts + option.secondary_opts}


HELP = {"COLUMNS": "120", "TERM": "dumb"}  # the environment of a help text


SEQUENCE = [shlex.split(line) for line in section("Your own checkpoint").splitlines() if "quamba-" in line]


def test_command_table_is_what_help_lists() -> None:
    command, environment = [QUAMBA_EXPORT, "--help"], {**os.environ, **HELP}
    text = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    listed = re.findall(r"^│ ([a-z-]+) {2,}", text.split("Commands", 1)[1], re.MULTILINE)
    assert [row[0] for row in table("Commands")] == listed


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_of_a_command_shows_an_example(command: str) -> None:
    said = CliRunner().invoke(app, [command, "--help"], env=HELP, prog_name="quamba-export")
    assert said.exit_code == 0
    usage, text = said.stdout.split("\n", 2)[1:]
    assert "Usage: quamba-export" in usage
    assert f"quamba-export {command}" in text


@pytest.mark.parametrize("words", SEQUENCE, ids=lambda words: words[1])
def test_flags_of_the_sequence_exist(words: list[str]) -> None:
    assert {word for word in words if word.startswith("-")} <= flags_of(words[1])


@pytest.mark.parametrize("row", table("Commands"), ids=lambda row: row[0])
def test_flags_of_the_table_exist(row: list[str]) -> None:
    assert set(re.findall(r"--[a-z-]+", " ".join(row))) | {"--json"} <= flags_of(row[0])


@pytest.mark.slow
def test_the_sequence_runs(tmp_path: Path) -> None:
    for words in SEQUENCE:
        text = str(ROOT / "embedded" / "validation.txt")
        meant = {"CHECKPOINT": str(ROOT / "embedded" / "mamba2-kjv"), "TEXT": text, "HELD_OUT": text}
        filled = [meant.get(word, word) for word in words[1:]]
        command = [QUAMBA_EXPORT, *filled, *SAMPLE.get(words[1], [])]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{filled}\n{result.stderr}"


def test_exit_codes_are_the_code_s() -> None:
    assert [int(row[0]) for row in table("Exit codes")] == [int(code) for code in ExitCode]


def test_extras_are_pyproject_s() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {row[0] for row in table("Installing parts")} == set(extras)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= targets


def test_links_lead_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
