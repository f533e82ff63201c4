"""The other end of one SSH session: a JSON request a line on stdin, a JSON answer a line on stdout.

It ends with its session, and with it the lock. While it holds the lock it also ends where nothing was asked
for SILENCE seconds: a workstation that lost its power closes no connection.
"""

from __future__ import annotations

import json
import os
import select
import sys
import traceback
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from quamba_export.exporter.deploy.device import contents, install
from quamba_export.exporter.deploy.device.probe import probe
from quamba_export.exporter.deploy.device.store import MENDS, Store, default_folder
from quamba_export.runtime.errors import ExitCode, QuambaError

HELLO = "quamba-export-device 1"
SILENCE = 90.0  # seconds
MAX_REQUEST = 1 << 20


class Agent:
    """The requests it answers: each method of a public name, with the request's arguments."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)

    def alive(self) -> None:
        pass

    def probe(self) -> dict[str, Any]:
        return probe(self.store.folder)

    def lock(self, owner: str, since: str) -> None:
        self.store.lock(owner, since)

    def stage(self, name: str) -> dict[str, Any]:
        return self.store.stage(name)

    def check(self, name: str, wanted: dict[str, str], site: str, files: dict[str, str]) -> dict[str, Any]:
        """`stage` of a release that is there; one that is damaged is to be copied again, and says why.

        For the arguments see contents.fault_of.
        """
        launcher = sha256(install.launcher().encode()).hexdigest()
        files = {**files, contents.LAUNCHER: launcher}
        damaged = contents.fault_of(self.store.release(name), wanted, site, files)
        return {**self.store.stage(name, damaged is not None), "damaged": damaged}

    def build(self, name: str, target: str, target_file: str, signer: str) -> None:
        """Build the bundle of what was staged.

        target_file: text of a TOML file, "" for a known target; signer: of the export/'s public key, or "".
        """
        if signer:
            install.verify_export(self.staged(name), signer)
        install.build_bundle(self.staged(name), target, target_file)

    def install(
        self, name: str, wanted: dict[str, str], expected: str, record: dict[str, Any], signer: str
    ) -> dict[str, Any]:
        """Test what was staged, and make it a release. Returns the self-test's result.

        signer: text of the public key that must have signed the bundle, "" where none is asked for.
        """
        staged = self.staged(name)
        install.write_launcher(staged)
        install.write_signer(staged, signer)
        result = install.run_self_test(staged, wanted, expected)
        record = {**record, "bundle_digest": result["digest"], "self_test": result}
        self.store.put_in_place(name, record)
        return result

    def test(self, name: str) -> dict[str, Any]:
        """The self-test of a release that is whole, once more; its signature with it."""
        digest = self.store.record(name)["bundle_digest"]
        try:
            return install.run_self_test(self.store.release(name), {"digest": digest})
        except QuambaError as error:
            if error.code is ExitCode.INTEGRITY:
                error.fix = MENDS
            raise

    def staged(self, name: str) -> Path:
        return self.store.incoming / self.store.release(name).name

    def activate(self, name: str, keep: int, unit_follows: bool) -> dict[str, Any]:
        """Switch to a release. Returns what was current, what was deleted, how a service took it.

        unit_follows: the service's unit is written anew after this.
        """
        if not unit_follows:
            install.check_service(self.store.release(name))
        before = self.store.current()
        self.store.switch(name)
        if before != name:  # not of a repair
            history = self.store.history()
            lost = [before] if before and before not in history else []  # with a damaged history
            self.store.note([*history, *lost, name])
        return {"before": before, "deleted": self.store.prune(keep), "service": install.restart_unit()}

    def rollback(self) -> dict[str, Any]:
        """Test the release that was current before, and switch to it. Each one goes a step further back."""
        before, current = self.store.before_current(), self.store.current()
        if not before:
            raise QuambaError(
                "there is no earlier release on this device",
                found=f"current: {current or 'none'}",
                allowed="a device that was deployed to twice",
                fix="deploy the bundle that you want",
            )
        install.check_service(self.store.release(before[-1]))
        result = self.test(before[-1])
        self.store.switch(before[-1])
        self.store.note(before)
        return {
            "before": current,
            "current": before[-1],
            "self_test": result,
            "service": install.restart_unit(),
        }

    def status(self) -> dict[str, Any]:
        """The releases, the last current one at the end, and interrupted copies."""
        incoming = self.store.incoming
        return {
            "current": self.store.current(),
            "releases": [self._noted(name) for name in self.store.names()],
            "incoming": sorted(path.name for path in incoming.iterdir()) if incoming.is_dir() else [],
        }

    def _noted(self, name: str) -> dict[str, Any]:
        try:
            return self.store.record(name)
        except QuambaError as error:
            return {"id": name, "damaged": error.found}

    def write_unit(self, text: str) -> str:
        return install.write_unit(text)


def answer(agent: Agent, line: bytes) -> dict[str, Any]:
    """The answer to one request: {"result": ...} or {"error": ...}."""
    try:
        request = json.loads(line)
        return {"result": getattr(agent, request["call"])(**request["arguments"])}
    except QuambaError as error:
        parts = {part: getattr(error, part) for part in ("message", "found", "allowed", "fix")}
        return {"error": {**parts, "code": int(error.code)}}
    except OSError as error:
        code = ExitCode.OUT_OF_SPACE if error.errno in (28, 122) else ExitCode.REMOTE  # ENOSPC, EDQUOT
        return {
            "error": {"message": f"the device: {error}", "found": "", "allowed": "", "fix": "", "code": code}
        }
    except Exception as error:  # nobody thought of: no lost connection, with which a try again would help
        traceback.print_exc()
        message = f"the device: {error!r}, a bug in quamba-export: please report it"
        return {"error": {"message": message, "found": "", "allowed": "", "fix": "", "code": ExitCode.BUG}}


def requests(agent: Agent) -> Iterator[bytes]:
    """The lines of stdin, to its end; see SILENCE."""
    buffer, descriptor = b"", sys.stdin.fileno()
    while True:
        line, newline, rest = buffer.partition(b"\n")
        if newline:
            buffer = rest
            yield line
            continue
        ready, _, _ = select.select([descriptor], [], [], SILENCE if agent.store.locked else None)
        block = os.read(descriptor, 1 << 16) if ready else b""
        if not block or len(buffer) > MAX_REQUEST:
            return
        buffer += block


def main() -> None:
    """Answer until the session ends."""
    agent = Agent(default_folder())
    print(HELLO, flush=True)
    for line in requests(agent):
        print(json.dumps(answer(agent, line)), flush=True)
