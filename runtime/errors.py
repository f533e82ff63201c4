"""The one error a user sees: what was found, what is allowed, how to fix it.

Every stage raises `QuambaError`; the command line prints it without a traceback and exits with its code.
It stands in runtime/, the stage with the fewest dependencies, so that the device has it too.
"""

from __future__ import annotations

from enum import IntEnum


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
