"""The systemd unit that serves the current release."""

from __future__ import annotations

from importlib.resources import files

CURRENT = "%h/.local/share/quamba-export/current"  # %h: the user's home, where systemd looks it up


def unit_text(port: int, current: str = CURRENT, *, signed: bool = False) -> str:
    """A unit of the user's service manager; current: the link to the release that it runs.

    signed: it serves only what the release's key has signed.
    """
    text = files(__package__).joinpath("quamba-export.service").read_text(encoding="utf-8")
    verifies = f" --require-signature {current}/signer.pem" if signed else ""
    for name, value in (("@CURRENT@", current), ("@PORT@", str(port)), ("@VERIFIES@", verifies)):
        text = text.replace(name, value)
    return text
