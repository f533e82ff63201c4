"""A staged release made to run, and run: its launcher, engines, self-test, and the service that uses it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from quamba_export.runtime.errors import ExitCode, QuambaError

LAUNCHER = """#!/bin/sh
# quamba-export of this release, made by `quamba-export deploy`
release=$(dirname "$(dirname "$(readlink -f "$0")")")
export PYTHONPATH="$release/site" PYTHONNOUSERSITE=1
exec {python} -m quamba_export.exporter.cli "$@"
"""
UNIT = "quamba-export.service"
SELF_TEST_SECONDS, BUILD_SECONDS = 900.0, 3600.0


def write_launcher(release: Path) -> Path:
    """bin/quamba-export: this device's Python with the release's packages before its own."""
    launcher = release / "bin" / "quamba-export"
    launcher.parent.mkdir(exist_ok=True)
    launcher.write_text(LAUNCHER.format(python=shlex.quote(sys.executable)))
    launcher.chmod(0o755)
    return launcher


def build_bundle(release: Path, target: str) -> None:
    """Build bundle/ of export/ with the release's own packages and the device's TensorRT.

    Raises QuambaError with the exit code of `quamba-export build`, and its words.
    """
    module = ["-m", "quamba_export.exporter.cli", "build", str(release / "export")]
    done = _run(release, [*module, "--target", target, "-o", str(release / "bundle")], BUILD_SECONDS)
    if done.returncode != 0:
        codes = {int(code): code for code in ExitCode}
        raise QuambaError(
            f"the bundle for {target} could not be built on the device",
            found=done.stderr.strip()[-1500:],
            fix="mend what it says; `quamba-export doctor --for gpu-build` there says what a build needs",
            code=codes.get(done.returncode, ExitCode.REMOTE),
        )


def run_self_test(release: Path, wanted: dict[str, str], expected: str = "") -> dict[str, Any]:
    """The bundle's self-test in a process of its own.

    wanted: what the result must say, such as the digest of the manifest; expected: tokens as JSON, "" for the
    manifest's. Raises QuambaError: the bundle's own refusal, exit 6 where the kernel ended it for memory, 8
    where it did not start.
    """
    module = ["-m", "quamba_export.runtime.self_test", str(release / "bundle"), expected]
    done = _run(release, module, SELF_TEST_SECONDS)
    try:
        result = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise _failed(f"exit status {done.returncode}: {done.stderr.strip()[-1500:]}") from error
    if done.returncode != 0:
        raise QuambaError(
            f"self-test on the device: {result['message']}",
            found=result["found"],
            allowed=result["allowed"],
            fix=result["fix"],
            code=ExitCode(result["code"]),
        )
    if odd := [name for name in wanted if result[name] != wanted[name]]:
        raise QuambaError(
            "something else arrived than was sent",
            found=f"{odd[0]} {result[odd[0]]}",
            allowed=wanted[odd[0]],
            fix="deploy again; do not change the bundle meanwhile",
            code=ExitCode.INTEGRITY,
        )
    return dict(result)


def _run(release: Path, words: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """This Python with the release's packages. Raises QuambaError: exit 6 where the kernel ended it."""
    environment = {**os.environ, "PYTHONPATH": str(release / "site"), "PYTHONNOUSERSITE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(f"no answer within {seconds:.0f} s") from error
    if done.returncode == -signal.SIGKILL:
        raise QuambaError(
            f"{words[1]} was killed on the device",
            found="signal 9, as the kernel sends where memory is short",
            fix="free memory on the device, or build with a smaller --max-batch or --prefill-length",
            code=ExitCode.OUT_OF_SPACE,
        )
    return done


def _failed(found: str) -> QuambaError:
    return QuambaError(
        "the release does not run on the device",
        found=found,
        allowed="one JSON object",
        fix="log in and run `quamba-export doctor` there, or deploy with --packages ship",
        code=ExitCode.REMOTE,
    )


def unit_path() -> Path:
    """Of the user's service manager."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "systemd" / "user" / UNIT


def write_unit(text: str) -> str:
    """Write the unit, enable it and start it; says in words how that went."""
    path = unit_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{UNIT}")
    partial.write_text(text)
    partial.replace(path)
    return (
        _systemctl("daemon-reload") or _systemctl("enable", UNIT) or _systemctl("restart", UNIT) or "running"
    )


def restart_unit() -> str | None:
    """Let a service that was installed use the new release; None where there is none."""
    if not unit_path().exists():
        return None
    return _systemctl("try-restart", UNIT) or "restarted, if it was running"


def _systemctl(*words: str) -> str | None:
    """None where it worked, else why not."""
    if shutil.which("systemctl") is None:
        return "unit written, but this device has no systemctl"
    command = ["systemctl", "--user", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return None
    return f"unit written; `{' '.join(command)}` failed: {done.stderr.strip()[:300]}"
