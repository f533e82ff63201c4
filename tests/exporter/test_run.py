"""`run`: flags, streaming, JSON, and what it needs installed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tiny_recurrent import write_tiny_export
from typer.testing import CliRunner

from quamba_export.exporter.commands.run import run, show
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.generate import Generation, Piece

APP = typer.Typer()
APP.command("run")(run)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_export(tmp_path_factory.mktemp("run") / "export"))


def invoke(*arguments: str, text: str | None = None) -> tuple[str, str]:
    result = CliRunner().invoke(APP, [*arguments, "--threads", "1"], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_it_streams_text_and_reports_on_stderr(export: str) -> None:
    stdout, stderr = invoke(export, "--prompt", "the a", "--max-new-tokens", "9")
    assert stdout.endswith("\n")
    assert "TTFT" in stderr
    assert "9 new tokens (length)" in stderr or "(eos)" in stderr


def test_json_is_one_object_and_has_the_same_text(export: str) -> None:
    stdout, _ = invoke(export, "--prompt", "the a", "--max-new-tokens", "9", "--json")
    result = json.loads(stdout)
    plain, _ = invoke(export, "--prompt", "the a", "--max-new-tokens", "9")
    assert plain == result["text"] + "\n"
    assert set(result) == {
        "prompt",
        "text",
        "token_ids",
        "finish_reason",
        "prompt_tokens",
        "ttft_ms",
        "tpot_ms",
        "tokens_per_second",
        "seed",
        "tokens_before",
        "saved_state",
        "peak_memory_mb",
        "warnings",
    }


def test_a_seed_repeats_and_another_differs(export: str) -> None:
    def draw(*more: str) -> str:
        return invoke(export, "--prompt", "a", "--max-new-tokens", "30", "--temperature", "1.5", *more)[0]

    assert draw("--seed", "5") == draw("--seed", "5")
    assert draw("--seed", "5") != draw("--seed", "6")


def test_quambas_flag_names_are_accepted(export: str) -> None:
    flags = ["--temperature", "1", "--seed", "3", "--json"]
    ours, _ = invoke(
        export,
        "--prompt",
        "a",
        "--max-new-tokens",
        "8",
        "--top-k",
        "5",
        "--top-p",
        "0.9",
        "--min-p",
        "0.1",
        *flags,
    )
    theirs, _ = invoke(
        export, "--prompt", "a", "--genlen", "8", "--topk", "5", "--topp", "0.9", "--minp", "0.1", *flags
    )
    assert json.loads(ours)["token_ids"] == json.loads(theirs)["token_ids"]


def test_stop_strings_may_be_repeated(export: str) -> None:
    whole = json.loads(invoke(export, "--prompt", "a", "--max-new-tokens", "20", "--json")[0])["text"]
    stop = whole[3:5]
    result = json.loads(
        invoke(export, "--prompt", "a", "--max-new-tokens", "20", "--stop", "\0no", "--stop", stop, "--json")[
            0
        ]
    )
    assert result["text"] == whole[: whole.index(stop)]
    assert result["finish_reason"] == "stop"


def test_a_prompt_comes_from_a_file_or_standard_input_as_it_is(export: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("the a\n")
    flags = ["--max-new-tokens", "3", "--json"]
    from_flag = json.loads(invoke(export, "--prompt", "the a\n", *flags)[0])
    from_file = json.loads(invoke(export, "--prompt-file", str(tmp_path / "prompt.txt"), *flags)[0])
    from_stdin = json.loads(invoke(export, "--prompt-file", "-", *flags, text="the a\n")[0])
    assert from_flag["token_ids"] == from_file["token_ids"] == from_stdin["token_ids"]
    assert from_flag["prompt_tokens"] == from_file["prompt_tokens"] == from_stdin["prompt_tokens"]


@pytest.mark.parametrize("flags", [[], ["--prompt", "a", "--prompt-file", "b"]])
def test_there_is_one_prompt(export: str, flags: list[str]) -> None:
    with pytest.raises(QuambaError, match="one prompt") as caught:
        invoke(export, *flags)
    assert caught.value.code is ExitCode.USAGE


def test_a_prompt_file_must_be_text(export: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(QuambaError, match="cannot be a prompt"):
        invoke(export, "--prompt-file", str(tmp_path / "prompt.txt"))
    with pytest.raises(QuambaError, match="cannot be a prompt"):
        invoke(export, "--prompt-file", str(tmp_path / "nowhere.txt"))


def test_a_closed_stdout_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `>&-` leaves it."""
    generation = Generation("a", (1,), "length", 1, None, None, None)
    monkeypatch.setattr(sys, "stdout", None)
    assert show(iter([Piece(0, "a", generation)]), quiet=False) == generation


def test_zero_new_tokens_print_an_empty_line(export: str) -> None:
    stdout, stderr = invoke(export, "--prompt", "a", "--max-new-tokens", "0")
    assert stdout == "\n"
    assert "1 prompt + 0 new tokens (length)" in stderr


def test_a_flag_out_of_range_is_named_before_the_bundle_is_read() -> None:
    with pytest.raises(QuambaError, match="--top-p"):
        invoke("nowhere", "--prompt", "a", "--top-p", "2")


def test_only_the_runtimes_extra_is_needed(export: str) -> None:
    program = f"""
import sys
for name in ("torch", "onnx", "safetensors", "transformers", "sklearn", "polygraphy", "scipy"):
    sys.modules[name] = None  # an import of it fails
import typer
from quamba_export.exporter.commands.run import run
app = typer.Typer()
app.command()(run)
app([{export!r}, "--prompt", "a", "--max-new-tokens", "4", "--threads", "1"])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
