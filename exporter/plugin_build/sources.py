"""What the plugin library is compiled of: the sources of plugins/, with the contracts as a C++ header.

A portable bundle carries them as one tar file, so that a device compiles them without torch, from which the
header is made.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from quamba_export.exporter.artefacts import verified_bytes
from quamba_export.runtime.folder_check import PLUGIN_SOURCES, integrity_error
from quamba_export.runtime.manifest import Manifest

SOURCES = Path(__file__).resolve().parents[2] / "plugins"
SOURCE_ENDINGS = {".cu", ".cuh", ".cpp", ".h", ".map", ".txt"}
HEADER = "contracts.h"
MEMBER = re.compile(r"([A-Za-z0-9_]+/)?[A-Za-z0-9_]+\.[a-z]+")  # no way out of the folder
MAX_MEMBER_BYTES, MAX_MEMBERS = 4 << 20, 1000


@dataclass(frozen=True)
class PluginSources:
    """A folder laid out like plugins/, and the text of contracts.h."""

    folder: Path
    contracts: str

    def files(self) -> list[Path]:
        """Sorted, so that what is made of them does not depend on the disk."""
        return sorted(path for path in self.folder.rglob("*") if path.suffix in SOURCE_ENDINGS)

    def update(self, digest: hashlib._Hash) -> None:
        """Everything here that decides the library's bytes."""
        for path in self.files():
            digest.update(f"{path.relative_to(self.folder)}\0".encode())
            digest.update(path.read_bytes())
        digest.update(f"\0{self.contracts}".encode())


def own_sources() -> PluginSources:
    """This installation's."""
    from quamba_export.plugins.common.c_header import header  # imports torch, which a look for tools does not

    return PluginSources(SOURCES, header())


def write_sources(sources: PluginSources, path: Path) -> None:
    """A tar file whose bytes depend on the sources only."""
    contents = {str(file.relative_to(sources.folder)): file.read_bytes() for file in sources.files()}
    contents[HEADER] = sources.contracts.encode()
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(contents.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@contextmanager
def carried_sources(path: Path, digest: str) -> Iterator[PluginSources]:
    """What write_sources wrote, unpacked while the body runs. digest: the sha256 in a verified manifest.

    Raises QuambaError (exit 4) for another file, and for a tar file that holds anything but small source
    files by plain names.
    """
    archive = verified_bytes(path, digest)  # they are compiled and loaded: these, not what the name leads to
    with TemporaryDirectory() as name:
        folder = Path(name)
        for member, content in read_members(path, archive):
            file = folder / member
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        header = folder / HEADER
        if not header.is_file():
            raise integrity_error(f"{path} holds no plugin sources", found=f"no {HEADER}")
        contracts = header.read_text(encoding="utf-8")
        header.unlink()
        yield PluginSources(folder, contracts)


@contextmanager
def sources_of(export: Path, manifest: Manifest) -> Iterator[PluginSources]:
    """Those that a verified export/ carries, else this installation's."""
    if PLUGIN_SOURCES in manifest.files:
        with carried_sources(export / PLUGIN_SOURCES, manifest.files[PLUGIN_SOURCES].sha256) as sources:
            yield sources
    else:
        yield own_sources()


def read_members(path: Path, archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in the bytes of `path`; extracts nothing itself."""
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as members:
            for member in members:
                plain = member.isreg() and MEMBER.fullmatch(member.name)
                ending = Path(member.name).suffix in SOURCE_ENDINGS
                if not (plain and ending and 0 <= member.size <= MAX_MEMBER_BYTES) or member.name in seen:
                    raise integrity_error(
                        f"{path} holds what is no plugin source",
                        found=f"{ascii(member.name)[:200]}, {member.size} bytes",
                        allowed=f"regular files, at most {MAX_MEMBER_BYTES} bytes, each once",
                    )
                if len(seen) >= MAX_MEMBERS:
                    raise integrity_error(f"{path} holds too many files", found=f"over {MAX_MEMBERS}")
                seen.add(member.name)
                content = members.extractfile(member)
                yield member.name, content.read() if content else b""
    except tarfile.TarError as error:
        raise integrity_error(f"{path} is no tar file", found=str(error)) from error
