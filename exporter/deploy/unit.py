"""The systemd unit that serves the current release."""

from __future__ import annotations

from importlib.resources import files

CURRENT = "%h/.local/share/quamba-export/current"  # %h: the user's home, where systemd looks it up


def unit_text(port: int, current: str = CURRENT) -> str:
    """A unit of the user's service manager; current: the link to the release that it runs."""
    text = files(__package__).joinpath("quamba-export.service").read_text(encoding="utf-8")
    return text.replace("@CURRENT@", current).replace("@PORT@", str(port))
