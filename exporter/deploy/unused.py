"""Packages that others require and that nothing here imports: a device is not sent them.

pip installs whatever a requirement requires. A release's site/ is no environment of pip's but a folder of
ours, so what only these requirements lead to is taken out of it again, file by file as pip recorded it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# tokenizers asks the hub for names of tokenizers; onnxruntime up to 1.23 has tools with symbols and colours
UNUSED = {"tokenizers": ("huggingface-hub",), "onnxruntime": ("sympy", "coloredlogs")}


def drop_unused(site: Path, wanted: Iterable[str]) -> list[str]:
    """Delete from `site` what the requirements `wanted` do not lead to; returns the names."""
    found = distributions(path=[str(site)])
    there: dict[str, Distribution] = {canonicalize_name(one.metadata["Name"]): one for one in found}
    kept: set[str] = set()
    waiting = [name_of(requirement) for requirement in wanted]
    while waiting:
        name = waiting.pop()
        if name in there and name not in kept:
            kept.add(name)
            waiting += [need for need in needs(there[name]) if need not in UNUSED.get(name, ())]
    gone = sorted(set(there) - kept)
    for name in gone:
        delete(there[name], site)
    return gone


def needs(found: Distribution) -> Iterator[str]:
    """What it requires on any system: a package too many is kept."""
    for requirement in found.requires or []:
        if "extra ==" not in requirement:
            yield name_of(requirement)


def name_of(requirement: str) -> str:
    """`huggingface-hub` of "huggingface_hub>=0.16"."""
    return canonicalize_name(Requirement(requirement).name)


def delete(found: Distribution, site: Path) -> None:
    """Its files, and the folders that are empty without them."""
    root = site.resolve()
    for file in found.files or []:
        path = Path(str(found.locate_file(file))).resolve()
        if path.is_relative_to(root):
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == root or not folder.is_dir() or any(folder.iterdir()):
                    break
                folder.rmdir()
