"""The `quamba-export` console script: the table of commands, and how an error leaves the process.

Only typer is imported here and at the top of a command's file: `--help` is quick, and a device that has just
the runtime's extra can start every command which that extra covers.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable

import typer

from quamba_export.exporter.commands.accuracy import accuracy
from quamba_export.exporter.commands.bench import bench
from quamba_export.exporter.commands.build import build
from quamba_export.exporter.commands.calibrate import calibrate
from quamba_export.exporter.commands.compare import compare
from quamba_export.exporter.commands.cost import cost
from quamba_export.exporter.commands.deploy import deploy
from quamba_export.exporter.commands.doctor import doctor
from quamba_export.exporter.commands.eval import evaluate
from quamba_export.exporter.commands.export import export
from quamba_export.exporter.commands.export_triton import export_triton
from quamba_export.exporter.commands.inspect import inspect
from quamba_export.exporter.commands.report import report
from quamba_export.exporter.commands.run import run
from quamba_export.exporter.commands.scale_drift import scale_drift
from quamba_export.exporter.commands.search import search
from quamba_export.exporter.commands.serve import serve
from quamba_export.exporter.commands.sign import sign
from quamba_export.exporter.commands.state_drift import state_drift
from quamba_export.exporter.commands.sweep import sweep
from quamba_export.exporter.commands.targets import targets
from quamba_export.exporter.commands.verify import verify
from quamba_export.runtime.errors import ExitCode, QuambaError, install_command

EXTRA_OF_MODULE = {
    "torch": "calibrate",
    "safetensors": "calibrate",
    "onnx": "export",
    "onnxruntime": "runtime",
    "tokenizers": "runtime",
    "numpy": "runtime",
    "polygraphy": "compare",
    "jinja2": "compare",
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "huggingface_hub": "hub",
    "datasets": "hub",
    "lm_eval": "tasks",
    "cryptography": "verify",
    "model_signing": "sign",
    "OpenSSL": "sign",
}
EXTRA_OF_COMMAND = {
    "export": "export",
    "build": "export",
    "compare": "compare",
    "report": "compare",
    "sweep": "compare",
}
OUT_OF_MEMORY_TEXTS = (
    "not enough memory",
    "can't allocate memory",
    "Failed to allocate memory",
)  # torch, onnxruntime
UNUSABLE_PATH = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
)

SIGNALS: list[int] = []  # that told this process to end

app = typer.Typer(
    name="quamba-export",
    help="Quantize Mamba language models and put them on edge devices.\n\n"
    "CHECKPOINT -> calibration/ -> export/ -> bundle/ -> tokens",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace(
            "_", "-"
        ),  # Quamba's own --calib_seqlen works too
    },
)
for name, command in (
    ("calibrate", calibrate),
    ("export", export),
    ("build", build),
    ("run", run),
    ("serve", serve),
    ("eval", evaluate),
    ("compare", compare),
    ("inspect", inspect),
    ("scale-drift", scale_drift),
    ("state-drift", state_drift),
    ("sweep", sweep),
    ("accuracy", accuracy),
    ("cost", cost),
    ("search", search),
    ("bench", bench),
    ("report", report),
    ("export-triton", export_triton),
    ("sign", sign),
    ("verify", verify),
    ("deploy", deploy),
    ("targets", targets),
    ("doctor", doctor),
):
    app.command(name)(command)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from importlib.metadata import version as installed_version

        print(f"quamba-export {installed_version('quamba-export')}")
        raise typer.Exit


def main() -> None:
    """The console script."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores the latter
            signal.signal(number, end_by_signal)
    leave_with_code(app)


def end_by_signal(number: int, frame: object) -> None:
    """As Ctrl-C does: what is half done is cleared away. Exits with 128 and the signal's number."""
    SIGNALS.append(number)
    sys.exit(128 + number)


def leave_with_code(command: Callable[[], object]) -> None:
    """Run it; every way out has one of the exit codes of runtime/errors.py, or 128 and a signal's number."""
    try:
        command()
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError) or not flushed():  # typer and rich leave with 1
            sys.exit(128 + signal.SIGPIPE)
        raise
    except Exception as error:
        if SIGNALS:  # it came while a module was imported, which numpy takes for a broken installation
            sys.exit(128 + SIGNALS[0])
        message, code = explain(error)
        if code is ExitCode.BUG:
            traceback.print_exception(error)
        print(f"error: {message}", file=sys.stderr)
        sys.exit(int(code))


def flushed() -> bool:
    """Whether somebody read what stdout still held; Python's own flush at the end has nothing left to say."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def explain(error: Exception) -> tuple[str, ExitCode]:
    """The text and the exit code of an error that ended a command."""
    if isinstance(error, QuambaError):
        return str(error), error.code
    if isinstance(error, ModuleNotFoundError) and (extra := extra_with(error.name or "")):
        return f"{error}\n  fix: {install_command(extra)}", ExitCode.USAGE
    if isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY_TEXTS):
        fix = "shorten --window or the samples, or free some memory"
        return f"out of memory\n  found: {error}\n  fix: {fix}", ExitCode.OUT_OF_SPACE
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space, or choose an output folder on another disk"
        return f"no space left on the device\n  found: {error}\n  fix: {fix}", ExitCode.OUT_OF_SPACE
    if isinstance(error, OSError) and error.errno in UNUSABLE_PATH:
        unusable = QuambaError(
            f"{error.filename} cannot be used",
            found=str(error.strerror),
            allowed="a path that is there, or can be made, and that this user may read and write",
            fix="choose another path, or mend its name, owner or permissions",
        )
        return str(unusable), unusable.code
    return f"{error!r}\n  this is a bug in quamba-export: please report it with the lines above", ExitCode.BUG


def extra_with(module: str) -> str | None:
    """The extra that brings a module: of a command that has its own, that one, with the rest of its needs."""
    extra = EXTRA_OF_MODULE.get(module.split(".")[0])
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    return extra if extra in (None, "hub") else EXTRA_OF_COMMAND.get(command, extra)


if __name__ == "__main__":
    main()
