"""The tactics that TensorRT has timed, kept between builds: a file that says what it was timed with.

    quamba-export timing cache 1
    <key: sha256 of GPU, TensorRT, plugins and builder settings>
    <sha256 of the rest>
    <TensorRT's own bytes>

TensorRT would take a cache of another plugin library, and says little of a damaged one; so both are found
here. A cache only saves time: what cannot be used is told in one line and left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from quamba_export.exporter.console import say
from quamba_export.runtime.whole_file import whole_file

MAGIC = b"quamba-export timing cache 1"


@dataclass(frozen=True)
class TimingCache:
    """The tactics of one kind of build. path: the file, which need not exist; key: from cache_key."""

    path: Path
    key: str

    def read(self) -> bytes:
        """TensorRT's bytes; none where there is no file, or none that may be used."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            return self._left_out(error.strerror or str(error))
        magic, key, digest, tactics = (*content.split(b"\n", 3), b"", b"", b"")[:4]
        if magic != MAGIC:
            return self._left_out("it is no timing cache of quamba-export, and stays as it is")
        if key.decode("ascii", "replace") != self.key:
            return self._left_out("it was made with another GPU, TensorRT, plugin library or builder setting")
        if digest.decode("ascii", "replace") != sha256(tactics).hexdigest():
            return self._left_out("it is damaged")
        return tactics

    def _left_out(self, reason: str) -> bytes:
        say(f"timing cache {self.path} is not used: {reason}")
        return b""

    def write(self, tactics: bytes) -> None:
        """Replace the file, in one step; never one that is not a timing cache."""
        digest = sha256(tactics).hexdigest()
        try:
            if self.path.exists() and not self.path.read_bytes().startswith(MAGIC + b"\n"):
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self.path) as file:
                file.write(b"\n".join([MAGIC, self.key.encode(), digest.encode(), tactics]))
        except OSError as error:
            say(f"timing cache {self.path} is not kept: {error.strerror}")


def cache_key(*, gpu: str, sm: int, tensorrt: str, plugins: bytes, settings: str) -> str:
    """What the timings depend on, as 64 hex digits. plugins: the bytes of the library."""
    parts = (gpu, str(sm), tensorrt, sha256(plugins).hexdigest(), settings)
    return sha256("\0".join(parts).encode()).hexdigest()


def default_path(key: str) -> Path:
    """A file of its own in the user's cache folder, so that two kinds of builds do not evict each other."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "quamba-export" / "timing" / f"{key[:16]}.cache"
