"""What a server is started with, checked before a model is loaded."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from quamba_export.runtime.errors import ExitCode, QuambaError

MIN_TOKEN = 16  # characters


@dataclass(frozen=True)
class Settings:
    """Where the server listens and what it allows. Raises QuambaError (exit 2) for what cannot be.

    Off the loopback interface a token is required: whoever reaches the port could otherwise use the model.
    """

    host: str = "127.0.0.1"
    port: int = 8000  # 0: a free one
    token: str | None = None  # what `Authorization: Bearer` must carry
    max_batch: int = 4  # sequences decoded together
    queue: int = 32  # sequences that may wait for the batch
    max_sessions: int = 16
    session_turns: int = 2  # of each session, whose states are kept
    session_seconds: float = 3600.0  # since a session was last used
    max_tokens: int = 4096  # the most that one sequence may ask for
    max_body: int = 1 << 20  # bytes of a request
    timeout: float = 300.0  # seconds of a request, from its arrival
    grace: float = 10.0  # seconds that requests have to end after SIGTERM

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("max_batch", 1, 256),
            ("queue", 0, 100_000),
            ("max_sessions", 0, 100_000),
            ("session_turns", 1, 1000),
            ("session_seconds", 1, 1e8),
            ("max_tokens", 1, 1 << 24),
            ("max_body", 1024, 1 << 30),
            ("timeout", 0.1, 1e6),
            ("grace", 0, 3600),
        ):
            require(name, getattr(self, name), low, high)
        if self.token is None and not is_loopback(self.host):
            raise QuambaError(
                "whoever can reach this address could use the model",
                found=f"--host {self.host} without a token",
                allowed="a loopback address, or a token",
                fix="set QUAMBA_SERVE_TOKEN, or --token; `openssl rand -hex 24` makes one",
                code=ExitCode.USAGE,
            )
        if self.token is not None and not (len(self.token) >= MIN_TOKEN and self.token.isascii()):
            raise QuambaError(
                "the token is too easily guessed",
                found=f"{len(self.token)} characters",
                allowed=f"{MIN_TOKEN} ASCII characters or more",
                fix="`openssl rand -hex 24` makes one",
                code=ExitCode.USAGE,
            )


def require(name: str, value: float, low: float, high: float) -> None:
    """Raise QuambaError (exit 2) by the flag's name unless low <= value <= high."""
    if not low <= value <= high:
        flag = f"--{name.replace('_', '-')}"
        raise QuambaError(
            f"{flag} is out of range", found=str(value), allowed=f"{low} to {high}", code=ExitCode.USAGE
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
