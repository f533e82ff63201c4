"""The Python packages of a release: a folder site/ for the device's Python, made on the workstation.

The device needs neither pip nor a network: pip unpacks the wheels of the device's processor and Python here,
and quamba-export itself, which is pure Python, is put beside them. TensorRT's own bindings are the device's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Literal

from quamba_export.exporter.deploy.device.contents import tree_digest
from quamba_export.exporter.deploy.preflight import Device
from quamba_export.exporter.deploy.unused import UNUSED, drop_unused
from quamba_export.exporter.kept_folder import kept_folder
from quamba_export.exporter.plugin_build.library import cache_folder, run_tool

Packages = Literal["ship", "device"]
STAGES = ("calib", "exporter", "plugins", "runtime", "targets")
EXTRAS = {"onnxruntime": ("runtime", "serve"), "tensorrt": ("runtime-gpu", "serve")}
BUILD_EXTRA = "export"  # of it not torch: what is built on a device is built without
VERIFY_EXTRA = "verify"
BACKPORTS = ("exceptiongroup", "typing-extensions")  # pip judges by its own Python which are needed
OLDEST_MANYLINUX = 17  # glibc 2.17: manylinux2014


def site_folder(
    device: Device,
    backend: str,
    packages: Packages,
    wheels: Path | None = None,
    *,
    builds: bool = False,
    signed: bool = False,
) -> Path:
    """The folder for a device; made where the cache has none, which takes pip a minute.

    packages: "ship" for all that the runtime needs, "device" for quamba-export only, where the device's
    Python has the rest. builds: whether a bundle is built there, too; signed: and signatures verified.
    wheels: a folder of wheels to take instead of an index. Its name follows from its content: elsewhere pip
    may find other packages. Raises QuambaError (exit 5) where pip finds no wheels for the device.
    """
    cache = cache_folder().parent / "device"
    wanted = requirements(backend, device, builds=builds, signed=signed) if packages == "ship" else []
    names = sorted(path.name for path in wheels.iterdir()) if wheels else []
    key = _digest(*wanted, str(UNUSED), *names, device.machine, device.python, device.glibc or "")
    needed = kept_folder(cache / f"packages-{key}", lambda new: _fetch(wanted, device, wheels, new))
    content = tree_digest(needed), _own_metadata(), *map(str, _own_files_with_digests())
    site = cache / f"site-{_digest(*content)}"
    return kept_folder(site, lambda new: _join(needed, new))


def requirements(backend: str, device: Device, *, builds: bool = False, signed: bool = False) -> list[str]:
    """quamba-export's own, and those of the backend's extras, as its metadata says."""
    found, wanted = [], {*EXTRAS[backend], *([BUILD_EXTRA] if builds else [])}
    wanted |= {VERIFY_EXTRA} if signed else set()
    for line in distribution("quamba-export").requires or []:
        requirement, _, marker = line.partition(";")
        extras = re.findall(r"""extra == ['"]([\w-]+)""", marker)
        if (not extras or wanted & set(extras)) and not requirement.startswith("quamba-export"):
            found.append(requirement.strip())
    if backend == "tensorrt" and device.cuda:  # newer bindings want a newer driver
        found.append(f"cuda-bindings<{int(device.cuda.split('.')[0]) + 1}")
    old = _version(device.python) < (3, 11)
    return sorted(found) + list(BACKPORTS if old else ())


def _fetch(wanted: Sequence[str], device: Device, wheels: Path | None, new: Path) -> None:
    """Unpack wheels into `new`."""
    if not wanted:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    newest = _version(device.glibc or "2.35")[1]
    tags = [f"manylinux_2_{minor}" for minor in range(newest, OLDEST_MANYLINUX - 1, -1)] + ["manylinux2014"]
    major, minor = _version(device.python)
    run_tool(
        [
            *pip,
            "--only-binary=:all:",
            f"--python-version={major}.{minor}",
            "--implementation=cp",
            *(f"--platform={tag}_{device.machine}" for tag in tags),
            *(["--no-index", f"--find-links={wheels.resolve()}"] if wheels else []),
            "--target",
            str(new),
            *wanted,
        ],
        new.parent,
        f"cannot fetch wheels for {device.machine}, Python {major}.{minor}",
    )
    drop_unused(new, wanted)
    if (new / "bin").is_dir():  # scripts, of this machine's Python
        shutil.rmtree(new / "bin")
    for record in new.glob("*.dist-info/RECORD"):  # pip's, of those scripts too: of each machine another
        record.unlink()


def _join(packages: Path, new: Path) -> None:
    """The packages, as further names of the same files, and quamba-export."""
    shutil.copytree(packages, new, copy_function=os.link, dirs_exist_ok=True)
    for source, target in _own_files():
        path = new / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    information = new / f"quamba_export-{distribution('quamba-export').version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(_own_metadata(), encoding="utf-8")


def _own_metadata() -> str:
    own = distribution("quamba-export")
    metadata = own.read_text("METADATA") or own.read_text("PKG-INFO")  # of a checkout it is the latter
    if metadata is None:
        raise FileNotFoundError("the metadata of the installed quamba-export")
    return metadata


def _own_files() -> Iterator[tuple[Path, str]]:
    """Every file of the installed stages, and its place in a site folder."""
    for stage in STAGES:
        root = Path(str(files(f"quamba_export.{stage}")))
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path, f"quamba_export/{stage}/{path.relative_to(root)}"


def _own_files_with_digests() -> Iterator[tuple[str, str]]:
    for path, target in _own_files():
        yield target, hashlib.sha256(path.read_bytes()).hexdigest()


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
