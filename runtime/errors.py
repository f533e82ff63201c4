"""The one error a user sees: what was found, what is allowed, how to fix it.

Every stage raises `QuambaError`; the command line prints it without a traceback and exits with its code.
It stands in runtime/, the stage with the fewest dependencies, so that the device has it too.
"""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any


class ExitCode(IntEnum):
    """Exit codes of every command (README, "Exit codes")."""

    OK = 0
    USAGE = 2
    INVALID_INPUT = 3
    INTEGRITY = 4
    INCOMPATIBLE = 5
    OUT_OF_SPACE = 6
    INCOMPLETE = 7
    REMOTE = 8
    NUMERIC = 9
    BUG = 70


class QuambaError(Exception):
    """An error that the user can act on.

    message: one line naming the file, tensor, key or flag that is wrong.
    found:   what was there.
    allowed: what would have been accepted.
    fix:     the command or change that mends it.
    code:    the process exit code.
    """

    def __init__(
        self,
        message: str,
        *,
        found: str = "",
        allowed: str = "",
        fix: str = "",
        code: ExitCode = ExitCode.INVALID_INPUT,
    ) -> None:
        super().__init__(message)
        self.message, self.found, self.allowed, self.fix, self.code = message, found, allowed, fix, code

    def __str__(self) -> str:
        lines = [self.message]
        for label in ("found", "allowed", "fix"):
            text = getattr(self, label)
            if text:
                lines.append(f"  {label}: {text}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.message, self.found, self.allowed, self.fix, self.code))


def _rebuild(message: str, found: str, allowed: str, fix: str, code: ExitCode) -> QuambaError:
    return QuambaError(message, found=found, allowed=allowed, fix=fix, code=code)


def install_command(extra: str) -> str:
    """The pip command that adds one of pyproject.toml's extras to this installation.

    It names where this one came from, by pip's own record (direct_url.json, PEP 610): the checkout, as
    editable as it is, with its constraints.txt, or the wheel's file, or a URL. The bare name stands where
    there is no record: it came from an index then.
    """
    import shlex
    import shutil
    from urllib.parse import unquote, urlsplit

    beside = Path(sys.executable).with_name("pip")
    pip = "pip" if shutil.which("pip") == str(beside) else f"{shlex.quote(sys.executable)} -m pip"
    record = _origin()
    url = urlsplit(record.get("url", ""))
    if not url.scheme:
        return f"{pip} install 'quamba-export[{extra}]'"
    if url.scheme != "file":
        vcs = record.get("vcs_info", {}).get("vcs")
        return f"{pip} install 'quamba-export[{extra}] @ {vcs + '+' if vcs else ''}{url.geturl()}'"
    path = unquote(url.path)
    editable = "-e " if record.get("dir_info", {}).get("editable") else ""
    pins = Path(path) / "constraints.txt"
    constraints = f" -c {shlex.quote(str(pins))}" if pins.is_file() else ""
    return f"{pip} install {editable}{shlex.quote(f'{path}[{extra}]')}{constraints}"


def _origin() -> dict[str, Any]:
    """What pip wrote of where it took quamba-export from; of a checkout on the path only, the same."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        record: dict[str, Any] = json.loads(
            distribution("quamba-export").read_text("direct_url.json") or "{}"
        )
        return record
    except PackageNotFoundError:
        root = Path(__file__).absolute().parents[1]
        return {"url": root.as_uri()} if (root / "pyproject.toml").is_file() else {}
