"""A target is one data file in this folder: where a bundle runs and what runs it there.

A device that is not here is one TOML file of the same keys, named by its path where a target is named.
"""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.targets.target_file import Target, parse_target

MAX_BYTES = 64 << 10


def target_names() -> list[str]:
    """Names of the targets that this release has data files of, sorted."""
    folder = files(__package__)
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def targets() -> list[Target]:
    """All of them."""
    return [_shipped(name) for name in target_names()]


def load_target(name: str) -> Target:
    """The target called `name`, or described by the TOML file of that path ("./mine.toml").

    Raises QuambaError: exit 5 for a name that this release has no data file of, 3 for a file that describes
    no target.
    """
    if name.endswith(".toml"):
        return custom_target(custom_text(Path(name)), Path(name))
    known = {alias: target for target in targets() for alias in (target.name, *target.aliases)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise QuambaError(
            f"no target is called '{name}'",
            allowed=f"{', '.join(sorted(known))}, or the path of a .toml file that describes another one",
            fix=f"{f'did you mean {near[0]}? ' if near else ''}`quamba-export targets` lists them",
            code=ExitCode.INCOMPATIBLE,
        )
    return known[name]


def _shipped(name: str) -> Target:
    text = files(__package__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return parse_target(text, f"targets/{name}.toml")


def custom_text(path: Path) -> str:
    """A user's file, as it is sent along to a device. Raises QuambaError (exit 3) for a large one."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise QuambaError(f"{path} is too large", found="more", allowed=f"{MAX_BYTES} bytes")
    return content.decode("utf-8", errors="replace")


def custom_target(text: str, path: Path) -> Target:
    """What a user's file says. It may not pass for one of the release's: a manifest holds the name only."""
    target = parse_target(text, str(path))
    taken = {alias for shipped in targets() for alias in (shipped.name, *shipped.aliases)}
    if clash := sorted(taken & {target.name, *target.aliases}):
        raise QuambaError(
            f"{path}: the name '{clash[0]}' is taken",
            found="a target of this release",
            allowed="any other name",
            fix="rename it in the file",
        )
    return target
