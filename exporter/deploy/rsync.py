"""Folders to the device, through the connection of a session; a copy that was cut off goes on."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from quamba_export.exporter.deploy.ssh import SOCKET, Session
from quamba_export.exporter.deploy.ssh_errors import copy_error
from quamba_export.runtime.errors import ExitCode, QuambaError

# of the session's folder, where it runs; never a connection of its own: without the session's there is none
SHELL = f"ssh -S {SOCKET} -o ProxyCommand=false -o BatchMode=yes"
OPTIONS = (
    "--recursive",
    "--times",
    "--partial",  # keeps what has arrived of a file
    "--delete",
    "--protect-args",  # the path is no text for the remote shell
    "--info=progress2",
    "--no-inc-recursive",
    "--timeout=60",
    "--chmod=D755,F644",
)
ALIVE_SECONDS = 10.0
PERCENT = re.compile(rb"(\d{1,3})%")
Report = Callable[[int], None]  # percent


def check_rsync() -> None:
    """Raise QuambaError (exit 5) where this machine has none."""
    if shutil.which("rsync") is None or shutil.which("ssh") is None:
        raise QuambaError(
            "this machine cannot copy to a device",
            found="no rsync or no ssh on PATH",
            allowed="rsync and OpenSSH",
            fix="apt-get install rsync openssh-client",
            code=ExitCode.INCOMPATIBLE,
        )


def copy_folder(
    session: Session, source: Path, target: str, report: Report, options: Sequence[str] = ()
) -> None:
    """What is in `source` into the folder `target` of the device, and nothing else.

    options: more of rsync's. Raises QuambaError: exit 7 where the connection is lost, 6 where the disk is
    full, 8 for what else rsync says.
    """
    command = ["rsync", *OPTIONS, *options, "-e", SHELL, "--", f"{source.resolve()}/", f"device:{target}/"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            cwd=session.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env={**os.environ, "LC_ALL": "C"},
        )
        try:
            _follow(process, session, report)
            status = process.wait()
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        if status != 0:
            raise copy_error(session.host, status, said.read().decode(errors="replace"))


def _follow(process: subprocess.Popen[bytes], session: Session, report: Report) -> None:
    """Report the progress to the end of rsync's output, and let the agent know that somebody is here."""
    assert process.stdout is not None
    last = time.monotonic()
    while True:
        ready, _, _ = select.select([process.stdout], [], [], ALIVE_SECONDS)
        block = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if ready and not block:
            return
        if percent := PERCENT.findall(block):
            report(int(percent[-1]))
        if time.monotonic() - last >= ALIVE_SECONDS:
            session.call("alive")
            last = time.monotonic()
