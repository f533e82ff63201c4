"""Names of hosts, and how SSH reaches them: checked before they come near a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quamba_export.runtime.errors import ExitCode, QuambaError

# a user, then a name of ~/.ssh/config, of DNS, or an IPv4 or IPv6 address, with a zone
HOST = re.compile(
    r"(?:[A-Za-z_][A-Za-z0-9._-]{0,63}@)?[A-Za-z0-9:][A-Za-z0-9._:-]{0,252}(?:%[A-Za-z0-9._-]{1,32})?"
)
MAX_HOSTS = 256
# Nothing may ask (there may be ten hosts), and a host that was never met is met by hand first.
FIXED = (
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=3",
    "ControlPersist=no",
)


@dataclass(frozen=True)
class SshOptions:
    """What the user's own SSH configuration does not say already."""

    identity: Path | None = None
    port: int | None = None
    config: Path | None = None
    connect_seconds: int = 15

    def words(self) -> list[str]:
        """For ssh's command line, before the host."""
        words = [word for option in FIXED for word in ("-o", option)]
        words += ["-o", f"ConnectTimeout={self.connect_seconds}"]
        words += ["-F", str(self.config)] if self.config else []
        words += ["-p", str(self.port)] if self.port else []
        return words + (["-i", str(self.identity), "-o", "IdentitiesOnly=yes"] if self.identity else [])

    def check(self) -> None:
        """Raise QuambaError (exit 3) for a file that is not there."""
        for option, path in (("--identity", self.identity), ("--ssh-config", self.config)):
            if path and not path.is_file():
                raise QuambaError(f"{option}: no such file", found=str(path), allowed="a file")


def checked_hosts(names: Sequence[str], usage: str) -> list[str]:
    """The hosts, each once. Raises QuambaError (exit 2) for what is no name of a host.

    usage: the command as it is typed, for whoever named no host.
    """
    if not names:
        raise QuambaError("no host is named", fix=f"quamba-export {usage}", code=ExitCode.USAGE)
    for name in names:
        if not HOST.fullmatch(name):
            raise QuambaError(
                "this is no host to deploy to",
                found=repr(name)[:200],
                allowed="user@host, a host, an address, or a name from ~/.ssh/config",
                fix="put a port or other options of the host into ~/.ssh/config",
                code=ExitCode.USAGE,
            )
    if len(set(names)) != len(names) or len(names) > MAX_HOSTS:
        raise QuambaError(
            "wrong number of hosts",
            found=f"{len(names)}, {len(set(names))} of them different",
            allowed=f"1 to {MAX_HOSTS}, each once",
            fix=f"quamba-export {usage}",
            code=ExitCode.USAGE,
        )
    return list(names)
