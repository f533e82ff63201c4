"""One SSH session to a device with the agent at its other end; rsync shares its connection.

The host's name is a word of ssh's command line, behind `--`, and of nothing else: the command for the remote
shell is a constant, all data goes through stdin, and rsync is told the name "device".
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

from quamba_export.exporter.deploy.device import agent
from quamba_export.exporter.deploy.host import SshOptions
from quamba_export.exporter.deploy.ssh_errors import connection_error, lost, printable
from quamba_export.runtime.errors import ExitCode, QuambaError

BOOTSTRAP = "python3 -I -c 'import sys; b = sys.stdin.buffer; exec(b.read(int(b.readline())))'"
LOADER = """
import sys, types
for name, source in {sources!r}:
    sys.modules[name] = module = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
sys.modules[{main!r}].main()
"""
DEVICE = "quamba_export.exporter.deploy.device"
MODULES = ("probe", "contents", "store", "install", "agent")  # each imports those before it only
SOCKET = "s"  # a path of it may have 108 bytes
MAX_ANSWER = 1 << 20
MAX_GREETING = 1 << 16  # what a login script may print before the agent's first line


def agent_program() -> bytes:
    """The agent and what it imports, as one program for `python3 -c`."""
    device, runtime = files(DEVICE), files("quamba_export.runtime")
    sources = [
        (DEVICE, ""),
        ("quamba_export.runtime.errors", runtime.joinpath("errors.py").read_text(encoding="utf-8")),
    ]
    sources += [
        (f"{DEVICE}.{name}", device.joinpath(f"{name}.py").read_text(encoding="utf-8")) for name in MODULES
    ]
    return LOADER.format(sources=sources, main=f"{DEVICE}.agent").encode()


class Session:
    """The session, as a context manager. One call at a time.

    Raises QuambaError: exit 8 where no session begins, 7 where it ends too early, and what the agent refuses.
    """

    def __init__(self, host: str, options: SshOptions) -> None:
        self.host, self.options = host, options
        self.folder = Path(tempfile.mkdtemp(prefix="qx-"))
        self._said = (self.folder / "stderr").open("w+b")

    def __enter__(self) -> Session:
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _begin(self) -> None:
        command = [
            "ssh",
            *self.options.words(),
            "-o",
            "ControlMaster=yes",
            "-o",
            f"ControlPath={self.folder / SOCKET}",
        ]
        self.process = subprocess.Popen(
            [*command, "--", self.host, BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "LC_ALL": "C"},
        )
        program = agent_program()
        try:
            self._send(b"%d\n%s" % (len(program), program))
            greeted = 0
            while (line := self._line()).strip() != agent.HELLO.encode():
                greeted += len(line)
                if greeted > MAX_GREETING:
                    raise connection_error(self.host, "it prints too much before the first answer")
        except (EOFError, BrokenPipeError) as error:
            raise connection_error(self.host, self.said()) from error

    def call(self, request: str, /, **arguments: Any) -> Any:
        """The agent's answer to one request."""
        try:
            self._send(json.dumps({"call": request, "arguments": arguments}).encode() + b"\n")
            answer = json.loads(self._line())
        except (EOFError, BrokenPipeError, ValueError) as error:
            raise lost(self.host, self.said()) from error
        if failure := answer.get("error"):
            raise refusal(self.host, failure)
        return answer.get("result")

    def said(self) -> str:
        """What ssh, or the agent, printed on stderr until now."""
        self._said.flush()
        return (self.folder / "stderr").read_text(errors="replace")

    def _send(self, content: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(content)
        self.process.stdin.flush()

    def _line(self) -> bytes:
        assert self.process.stdout is not None
        line: bytes = self.process.stdout.readline(MAX_ANSWER)
        if not line.endswith(b"\n"):
            self.process.wait()
            raise EOFError
        return line

    def _end(self) -> None:
        """Close stdin, which ends the agent; then ssh, which waits for nobody."""
        if process := getattr(self, "process", None):
            for pipe in (process.stdin, process.stdout):
                _close(pipe)
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._said.close()
        shutil.rmtree(self.folder)


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # what was left to be written has no reader


def refusal(host: str, failure: Mapping[str, Any]) -> QuambaError:
    """The agent's error, as one of this side."""
    codes = {int(code): code for code in ExitCode}
    return QuambaError(
        f"{host}: {printable(str(failure.get('message', '')))}",
        found=printable(str(failure.get("found", ""))),
        allowed=printable(str(failure.get("allowed", ""))),
        fix=printable(str(failure.get("fix", ""))),
        code=codes.get(failure.get("code", 0), ExitCode.REMOTE),
    )
