"""`run --chat` and `run --prompts` as commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tiny_recurrent import write_tiny_export
from typer.testing import CliRunner

from quamba_export.exporter.commands.run import run
from quamba_export.runtime.errors import ExitCode, QuambaError

APP = typer.Typer()
APP.command("run")(run)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_export(tmp_path_factory.mktemp("chat") / "export"))


def invoke(*arguments: object, text: str = "", new: int = 6) -> tuple[str, str]:
    words = [*map(str, arguments), "--threads", "1", "--max-new-tokens", str(new)]
    result = CliRunner().invoke(APP, words, input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout, result.stderr


def test_a_chat_with_a_question_taken_back(export: str, tmp_path: Path) -> None:
    lines = "the a\nnever\n/rewind\nand\n"
    shown, told = invoke(export, "--chat", "--save-state", tmp_path / "a", text=lines)
    assert "1 questions are left" in told
    assert "3 answers, " in told
    assert "tokens/s, peak memory" in told
    invoke(export, "--chat", "--save-state", tmp_path / "b", text="the a\nand\n/quit\nnot read\n")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert shown


def test_a_full_disk_and_an_absurd_number_end_no_chat(
    export: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    lines = f"the a\n/save {tmp_path / 'chat'}\n/rewind {'9' * 5000}\nand\n"
    _, told = invoke(export, "--chat", text=lines)
    assert "No space left on device" in told
    assert "no such command" in told
    assert "2 answers, " in told
    assert list(tmp_path.iterdir()) == []


def test_an_answer_has_a_token(export: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('"a"\n')
    for flags in (("--chat",), ("--prompts", tmp_path / "p.jsonl", "-o", tmp_path / "out.jsonl")):
        with pytest.raises(QuambaError, match="do not go together") as error:
            invoke(export, *flags, new=0, text="the a\n")
        assert error.value.code is ExitCode.USAGE


def test_a_chat_is_forked_by_a_file(export: str, tmp_path: Path) -> None:
    _, told = invoke(
        export, "--chat", text=f"the a\n/save {tmp_path / 'a'}\n/save\n/nonsense\n/rewind 5\n/help\n"
    )
    assert f"bytes in {tmp_path / 'a'}" in told
    assert told.count("error: no such command") == 2
    assert "so many turns cannot be taken back" in told
    _, told = invoke(export, "--chat", "--load-state", tmp_path / "a", text="and\n")
    assert "1 answer, " in told


def test_a_file_of_prompts(export: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("the a\nand\n")
    out = tmp_path / "out.jsonl"
    stdout, _ = invoke(export, "--prompts", tmp_path / "p.txt", "-o", out, "--json")
    result = json.loads(stdout)
    assert (result["prompts"], result["kept"], result["new_tokens"]) == (2, 0, 12)
    assert [json.loads(line)["prompt"] for line in out.read_text().splitlines()] == ["the a", "and"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--chat", "--prompt", "a"),
        ("--chat", "--json"),
        ("--prompts", "p.txt"),
        ("-o", "out.jsonl", "--prompt", "a"),
        ("--prompts", "p.txt", "-o", "out.jsonl", "--chat"),
    ],
)
def test_flags_of_different_uses_are_refused(export: str, flags: tuple[str, ...]) -> None:
    with pytest.raises(QuambaError, match="do not go together") as error:
        invoke(export, *flags)
    assert error.value.code is ExitCode.USAGE
