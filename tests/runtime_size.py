"""What the runtime weighs on a device: `python tests/runtime_size.py`, with `--download` of the wheels too.

Installed sizes are those of this environment's distributions, file by file as pip recorded them (without the
bytecode that pip compiles). Downloads are what `pip download` fetches for this Python and machine; unpacked,
those wheels give the installed size where a distribution is not in this environment.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from quamba_export.exporter.deploy.unused import UNUSED

PROJECT = "quamba-export"
ROOT = Path(__file__).parents[1]
EXTRAS = ("runtime", "runtime-gpu", "serve")
MB = 1e6


def needs(name: str, extra: str) -> list[Requirement]:
    """What a distribution requires for one of its extras ('' for itself), on this machine."""
    if name == PROJECT:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
        return [
            need for text in texts if (need := Requirement(text)).marker is None or need.marker.evaluate()
        ]
    found = [Requirement(text) for text in distribution(name).requires or []]
    return [need for need in found if need.marker is None or need.marker.evaluate({"extra": extra})]


def closure(
    name: str, extras: tuple[str, ...], unused: Mapping[str, tuple[str, ...]]
) -> dict[str, Distribution | None]:
    """Every distribution that an install brings, itself too; None for one that is not installed here.

    unused: of a distribution the requirements that are not followed.
    """
    found: dict[str, Distribution | None] = {}
    waiting = [(name, extra) for extra in ("", *extras)]
    while waiting:
        current, extra = waiting.pop()
        key = canonicalize_name(current)
        if current == PROJECT:
            waiting += [(need.name, more) for need in needs(current, extra) for more in ("", *need.extras)]
            continue
        try:
            found[key] = distribution(current)
        except PackageNotFoundError:
            found[key] = None
            continue
        followed = (need for need in needs(current, extra) if need.name not in unused.get(key, ()))
        for need in followed:
            waiting += [
                (need.name, more)
                for more in ("", *need.extras)
                if more or canonicalize_name(need.name) not in found
            ]
    return found


def installed_bytes(found: Distribution) -> int:
    files = found.files or []
    paths = [Path(str(found.locate_file(file))) for file in files if "__pycache__" not in file.parts]
    return sum(path.stat().st_size for path in paths if path.is_file())


def sizes(*extras: str, deployed: bool = False) -> Iterator[tuple[str, int | None]]:
    """Name and installed bytes of every distribution besides our own, largest first.

    deployed: as `deploy` sends them, without what is required and never imported.
    """
    found = {
        name: None if dist is None else installed_bytes(dist)
        for name, dist in closure(PROJECT, extras, UNUSED if deployed else {}).items()
    }
    yield from sorted(found.items(), key=lambda item: -(item[1] or 0))


def wheel_bytes(extra: str) -> dict[str, tuple[int, int]]:
    """The wheels that pip fetches for an extra at the versions of constraints.txt: packed, unpacked."""
    wanted = [str(need).split(";")[0].strip() for need in (*needs(PROJECT, ""), *needs(PROJECT, extra))]
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "-d", folder, "-c", ROOT / "constraints.txt"]
        subprocess.run([*pip, *wanted], check=True)
        return {path.name: (path.stat().st_size, unpacked_bytes(path)) for path in Path(folder).iterdir()}


def unpacked_bytes(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--download", action="store_true")
    options = parser.parse_args()
    for extra in EXTRAS:
        found = list(sizes(extra))
        missing = [name for name, size in found if size is None]
        total = sum(size or 0 for _, size in found)
        print(
            f"{extra}: {total / MB:.1f} MB installed" + (f", without {', '.join(missing)}" if missing else "")
        )
        print("  " + ", ".join(f"{name} {size / MB:.1f}" for name, size in found if size and size > MB / 2))
        if extra != "serve":
            total = sum(size or 0 for _, size in sizes(extra, "serve", deployed=True))
            print(f"  {total / MB:.1f} MB with serve, as `deploy` sends it")
        if options.download:
            wheels = wheel_bytes(extra)
            packed, unpacked = (sum(column) / MB for column in zip(*wheels.values(), strict=True))
            print(f"  {packed:.1f} MB to download in {len(wheels)} wheels, {unpacked:.1f} MB unpacked")


if __name__ == "__main__":
    main()
