"""What ssh and rsync say when they fail, told to the user: what it was and what mends it.

OpenSSH has one exit status for everything that is its own, 255; its messages are not translated.
"""

from __future__ import annotations

from quamba_export.runtime.errors import ExitCode, QuambaError

SAID = 1500  # characters of what a program said that are passed on
# a part of what ssh says, the message for the host, the fix
FAILURES = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host key of {host} is not the one that this machine knows",
        "find out why: only if the device was installed anew, `ssh-keygen -R HOST` and log in by hand once",
    ),
    (
        "Host key verification failed",
        "{host} is not known to this machine",
        "log in by hand once (`ssh {host}`) and compare the key's fingerprint with the device's",
    ),
    (
        "Permission denied",
        "{host} does not let this user in",
        "give it the key (`ssh-copy-id {host}`), load it into ssh-agent, or name it by --identity",
    ),
    ("Could not resolve", "{host} has no address", "correct the name, or put it into ~/.ssh/config"),
    ("Connection refused", "{host} has no SSH server on that port", "start sshd there, or name its --port"),
    ("timed out", "{host} does not answer", "switch it on, or check the network"),
    ("No route to host", "{host} cannot be reached", "check the network"),
    ("Network is unreachable", "{host} cannot be reached", "check the network"),
    ("too long for Unix domain socket", "the folder for temporary files has too long a name", "set TMPDIR"),
)
NO_PYTHON = ("python3: not found", "python3: command not found", "python3: No such file")
NO_SPACE = ("No space left on device", "Disk quota exceeded")
COPY_BROKEN = (10, 12, 20, 30, 35, 255)  # rsync: socket, protocol stream, signal, timeouts; ssh's own


def connection_error(host: str, said: str) -> QuambaError:
    """For a session that did not begin. Exit 8."""
    for part, message, fix in FAILURES:
        if part in said:
            found = _lines_with(said, part)
            return QuambaError(
                message.format(host=host), found=found, fix=fix.format(host=host), code=ExitCode.REMOTE
            )
    if any(part in said for part in NO_PYTHON):
        return QuambaError(
            f"{host} has no python3",
            found=printable(said),
            allowed="Python 3.10 or later",
            fix="install it there: apt-get install python3",
            code=ExitCode.REMOTE,
        )
    return QuambaError(
        f"no session on {host}",
        found=printable(said) or "the connection was closed",
        fix=f"try `ssh {host} python3 --version`",
        code=ExitCode.REMOTE,
    )


def lost(host: str, said: str = "") -> QuambaError:
    """For a session that ended too early. Exit 7: the next run goes on."""
    return QuambaError(
        f"the connection to {host} was lost; what runs there is as it was",
        found=printable(said) or "the session ended",
        fix="run the same command again: it goes on where it was",
        code=ExitCode.INCOMPLETE,
    )


def copy_error(host: str, status: int, said: str) -> QuambaError:
    """For an rsync that failed. status: its exit status."""
    if any(part in said for part in NO_SPACE):
        return QuambaError(
            f"the disk of {host} is full; what runs there is as it was",
            found=printable(said),
            fix="free some space there and run the same command again: it goes on where it was",
            code=ExitCode.OUT_OF_SPACE,
        )
    if status in COPY_BROKEN or status < 0:
        return lost(host, f"rsync, exit status {status}: {said}")
    return QuambaError(
        f"copying to {host} failed",
        found=f"rsync, exit status {status}: {printable(said)}",
        fix="mend what rsync says and run the same command again",
        code=ExitCode.REMOTE,
    )


def printable(said: str) -> str:
    """The end of it, in one line, without what would move a terminal's cursor."""
    words = " ".join(said.split())[-SAID:]
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _lines_with(said: str, part: str) -> str:
    return printable(next(line for line in said.splitlines() if part in line).strip("@ "))
