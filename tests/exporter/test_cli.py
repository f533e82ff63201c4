"""The command line: help, start-up time, JSON on stdout, and the exit code of every kind of error."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from tiny_recurrent import write_tiny_export

from quamba_export.calib.calibrate import partial_directory
from quamba_export.calib.progress_file import ProgressFile
from quamba_export.exporter import cli
from quamba_export.exporter.commands.calibrate import resumable, tell_unfinished
from quamba_export.runtime.errors import ExitCode, QuambaError

COMMANDS = ("calibrate", "export", "build", "run", "eval", "compare", "inspect", "bench", "report")
COMMANDS += ("targets", "doctor", "deploy")


@dataclass
class Left:
    """How a command left: exit code and what it printed."""

    returncode: object
    stdout: str
    stderr: str


Command = Callable[..., Left]


@pytest.fixture
def quamba_export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The console script, in this process."""

    def run(*arguments: str | Path) -> Left:
        monkeypatch.setattr(sys, "argv", ["quamba-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        return Left(leaving.value.code or 0, *capsys.readouterr())

    return run


def test_starting_imports_nothing_heavy() -> None:
    code = "import sys; import quamba_export.exporter.cli; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "numpy", "onnx", "onnxruntime", "polygraphy", "tokenizers", "rich"} & set(modules)


HALF_DONE = """
import sys, time
from pathlib import Path
from quamba_export.calib.output_directory import written_directory
from quamba_export.exporter import cli
def command():
    with written_directory(Path(sys.argv[1]), "bundle"):
        print("begun", flush=True)
        time.sleep(60)
def importing():
    try:
        command()
    except BaseException as error:
        raise ImportError("your installation is broken") from error
cli.app = importing if sys.argv[2] == "importing" else command
cli.main()
"""


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGTERM, ""), (signal.SIGHUP, ""), (signal.SIGTERM, "importing")]
)
def test_a_signal_to_end_leaves_nothing_half_done(
    tmp_path: Path, number: signal.Signals, moment: str
) -> None:
    words = [sys.executable, "-c", HALF_DONE, str(tmp_path / "bundle"), moment]
    handled = partial(signal.signal, number, signal.SIG_DFL)  # nohup's tests ignore SIGHUP
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, **pipes, text=True, preexec_fn=handled) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["targets"], ["targets", "--json"]])
def test_a_reader_that_stops_ends_a_command_in_silence(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "quamba_export.exporter.cli", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with os.fdopen(writing, "w") as unread:
        pipes = {"stdout": unread, "stderr": subprocess.PIPE}
        left = subprocess.run(words, **pipes, env=buffered, text=True, check=False)
    assert (left.returncode, left.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(quamba_export: Command, command: str) -> None:
    result = quamba_export(command, "--help")
    assert result.returncode == 0
    assert f"Example: quamba-export {command}" in " ".join(result.stdout.split())
    assert "--json" in result.stdout


def test_json_is_the_only_thing_on_stdout(quamba_export: Command, tmp_path: Path) -> None:
    export = write_tiny_export(tmp_path / "export")
    result = quamba_export("build", export, "--target", "cpu", "-o", tmp_path / "bundle", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["target"] == "cpu"
    assert result.stdout.count("\n") == 1


def test_an_error_names_what_was_found_and_how_to_fix_it_without_a_traceback(
    quamba_export: Command, tmp_path: Path
) -> None:
    result = quamba_export("build", tmp_path, "--target", "thor", "-o", tmp_path / "bundle", "--json")
    assert result.returncode == ExitCode.INCOMPATIBLE
    assert result.stdout == ""
    assert result.stderr.startswith("error: no target is called 'thor'\n  allowed: a100, agx-orin,")
    assert "fix: " in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["bild"],
        ["build"],
        ["eval", "x", "--data", "t", "--window", "one"],
        ["--bogus"],
        ["eval", "x", "--data", "t", "--ssm-state-dtype", "int8"],
        ["calibrate", "x", "--data", "t", "-o", "c", "--seed", "-1"],
        ["calibrate", "x", "--data", "t", "-o", "c", "--group-heads", "--recipe", "quamba"],
    ],
)
def test_usage_errors_exit_with_2(quamba_export: Command, arguments: list[str]) -> None:
    result = quamba_export(*arguments)
    assert result.returncode == ExitCode.USAGE
    assert result.stdout == ""


def test_the_published_code_s_snake_case_flags_are_accepted(quamba_export: Command, tmp_path: Path) -> None:
    result = quamba_export("eval", tmp_path / "nowhere", "--data", "t.txt", "--max_tokens", "8")
    assert result.returncode == ExitCode.INVALID_INPUT, result.stderr


def test_version_is_printed(quamba_export: Command) -> None:
    assert quamba_export("--version").stdout.startswith("quamba-export 0.")


ERRORS = [
    (QuambaError("bad", code=ExitCode.NUMERIC), ExitCode.NUMERIC, "bad"),
    (
        ModuleNotFoundError("No module named 'torch'", name="torch"),
        ExitCode.USAGE,
        "[calibrate]",
    ),
    (
        ModuleNotFoundError("No module named 'jinja2.ext'", name="jinja2.ext"),
        ExitCode.USAGE,
        "[compare]",
    ),
    (ModuleNotFoundError("No module named 'surprise'", name="surprise"), ExitCode.BUG, "bug"),
    (MemoryError("1 TiB"), ExitCode.OUT_OF_SPACE, "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ExitCode.OUT_OF_SPACE, "out of memory"),
    (OSError(errno.ENOSPC, "No space left on device"), ExitCode.OUT_OF_SPACE, "no space left"),
    (PermissionError(errno.EACCES, "Permission denied", "out"), ExitCode.INVALID_INPUT, "Permission denied"),
    (ZeroDivisionError("division by zero"), ExitCode.BUG, "ZeroDivisionError"),
]


@pytest.mark.parametrize(("error", "code", "text"), ERRORS, ids=lambda value: type(value).__name__)
def test_every_error_leaves_with_its_exit_code(
    error: Exception,
    code: ExitCode,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "app", raiser(error))
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert ("Traceback" in captured.err) == (code is ExitCode.BUG)


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("build", "torch", "export"),
        ("build", "numpy", "export"),
        ("compare", "safetensors", "compare"),
        ("calibrate", "torch", "calibrate"),
        ("calibrate", "datasets", "hub"),
        ("compare", "datasets", "hub"),
        ("run", "numpy", "runtime"),
    ],
)
def test_the_extra_named_is_the_command_s(
    monkeypatch: pytest.MonkeyPatch, command: str, module: str, extra: str
) -> None:
    """Else a second one would be missing after the first was installed."""
    monkeypatch.setattr(sys, "argv", ["quamba-export", command, "x"])
    message, _ = cli.explain(ModuleNotFoundError(f"No module named '{module}'", name=module))
    assert f"[{extra}]" in message


def test_a_path_that_cannot_be_used_says_what_can() -> None:
    message, code = cli.explain(PermissionError(errno.EACCES, "Permission denied", "out/export"))
    assert code == ExitCode.INVALID_INPUT
    for part in (
        "out/export cannot be used\n",
        "found: Permission denied",
        "allowed: ",
        "fix: choose another",
    ):
        assert part in message


MODULES = {
    "tensorrt.check": ["nowhere"],
    "tensorrt.speed": ["toast", "--plugins", "nowhere"],
    "tensorrt.random": ["toast", "--plugins", "nowhere"],
    "speed.gpu_speed_table": ["nowhere", "nowhere"],
}


@pytest.mark.parametrize("module", MODULES)
def test_commands_of_modules_leave_the_same_way(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"quamba_export.exporter.{module}", *MODULES[module]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in set(ExitCode) - {ExitCode.OK, ExitCode.BUG}, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_inspect_says_what_it_knows(quamba_export: Command, tmp_path: Path) -> None:
    result = quamba_export("inspect", tmp_path)
    assert result.returncode == ExitCode.INVALID_INPUT
    assert "no config.json, calibration.json, export.json or manifest.json in it" in result.stderr


def raiser(error: Exception) -> Callable[[], None]:
    def app() -> None:
        raise error

    return app


def test_an_interrupted_calibration_says_how_to_go_on() -> None:
    with pytest.raises(QuambaError, match="interrupted") as caught, resumable():
        raise KeyboardInterrupt
    assert caught.value.code is ExitCode.INCOMPLETE
    assert "--resume" in caught.value.fix


@pytest.mark.parametrize(
    ("unfinished", "resume", "text"),
    [
        (True, False, "out.partial holds an unfinished calibration: begun anew, as --resume was not given"),
        (False, True, "nothing to resume in "),
        (True, True, ""),
        (False, False, ""),
    ],
)
def test_an_unfinished_calibration_is_not_dropped_in_silence(
    unfinished: bool, resume: bool, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if unfinished:
        (folder := partial_directory(tmp_path / "out")).mkdir()
        ProgressFile(folder, {}).save()
    tell_unfinished(tmp_path / "out", resume)
    said = capsys.readouterr().err
    assert text in said
    assert bool(said) == bool(text)
