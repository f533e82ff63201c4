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

from quamba_export.exporter.deploy.device.store import remove
from quamba_export.runtime.errors import ExitCode, QuambaError

LAUNCHER = """#!/bin/sh
# quamba-export of this release, made by `quamba-export deploy`
release=$(dirname "$(dirname "$(readlink -f "$0")")")
export PYTHONPATH="$release/site" PYTHONNOUSERSITE=1
exec {python} -m quamba_export.exporter.cli "$@"
"""
UNIT = "quamba-export.service"
SIGNER = "signer.pem"  # of a release whose bundle is loaded only with this key's signature
SELF_TEST_SECONDS, BUILD_SECONDS, SYSTEMCTL_SECONDS = 900.0, 3600.0, 60.0


def launcher() -> str:
    """bin/quamba-export: this device's Python with the release's packages before its own."""
    return LAUNCHER.format(python=shlex.quote(sys.executable))


def write_launcher(release: Path) -> None:
    """Make bin/quamba-export, whatever is there."""
    path = release / "bin" / "quamba-export"
    remove(path.parent)
    path.parent.mkdir()
    path.write_text(launcher())
    path.chmod(0o755)


def write_signer(release: Path, text: str) -> None:
    """Keep the key that the bundle must be signed with; "" for none, also where an earlier try had one."""
    path = release / SIGNER
    if text:
        path.write_text(text, encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def verify_export(release: Path, signer: str) -> None:
    """Refuse an export/ that this key has not signed, by the release's own packages."""
    key = release / "export-signer.pem"
    key.write_text(signer, encoding="utf-8")
    module = ["-m", "quamba_export.exporter.cli", "verify", str(release / "export"), "--public-key", str(key)]
    done = _run(release, module, SELF_TEST_SECONDS)
    if done.returncode != 0:
        raise _of_command("the export does not hold on the device", done, "sign it, and deploy again")


def build_bundle(release: Path, target: str, target_file: str = "") -> None:
    """Build bundle/ of export/ with the release's own packages and the device's TensorRT.

    target_file: what describes a target that the release has no data of; kept as target.toml.
    Raises QuambaError with the exit code of `quamba-export build`, and its words.
    """
    module, named = ["-m", "quamba_export.exporter.cli", "build", str(release / "export")], target
    if target_file:
        (release / "target.toml").write_text(target_file, encoding="utf-8")
        named = str(release / "target.toml")
    remove(release / "bundle")  # of a damaged release: it may not say any more that it is one
    done = _run(release, [*module, "--target", named, "-o", str(release / "bundle")], BUILD_SECONDS)
    if done.returncode != 0:
        fix = "mend what it says; `quamba-export doctor --for gpu-build` there says what a build needs"
        raise _of_command(f"the bundle for {target} could not be built on the device", done, fix)


def run_self_test(release: Path, wanted: dict[str, str], expected: str = "") -> dict[str, Any]:
    """The bundle's self-test in a process of its own.

    A release with a signer's key is loaded only with that key's signature.

    wanted: what the result must say, such as the digest of the manifest; expected: tokens as JSON, "" for the
    manifest's. Raises QuambaError: the bundle's own refusal, exit 6 where the kernel ended it for memory, 8
    where it did not start.
    """
    signer = [str(release / SIGNER)] if (release / SIGNER).exists() else []
    module = ["-m", "quamba_export.runtime.self_test", str(release / "bundle"), expected, *signer]
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


def _of_command(message: str, done: subprocess.CompletedProcess[str], fix: str) -> QuambaError:
    """What a command of this release said on stderr, with its exit code."""
    codes = {int(code): code for code in ExitCode}
    code = codes.get(done.returncode, ExitCode.REMOTE)
    return QuambaError(message, found=done.stderr.strip()[-1500:], fix=fix, code=code)


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


def check_service(release: Path) -> None:
    """Refuse (exit 4) a release without a signer's key where the service asks for one."""
    path = unit_path()
    if path.exists() and f"/{SIGNER}" in path.read_text() and not (release / SIGNER).exists():
        raise QuambaError(
            "this device's service takes signed bundles only",
            found="a release that no signature was required of",
            allowed="deploy --require-signature KEY",
            fix="sign the bundle, or write the unit anew: deploy --systemd",
            code=ExitCode.INTEGRITY,
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
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SYSTEMCTL_SECONDS
        )
    except subprocess.TimeoutExpired:  # it goes on without us: systemd gives a service 90 s to stop
        return f"unit written; `{' '.join(command)}` took more than {SYSTEMCTL_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    return f"unit written; `{' '.join(command)}` failed: {done.stderr.strip()[:300]}"
