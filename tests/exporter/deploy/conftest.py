"""A device and bundles for every test of `deploy`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from deploying import deployed
from ssh_device import SshDevice, sshd
from tiny_recurrent import write_tiny_export

from quamba_export.exporter.bundle.build import build_bundle
from quamba_export.runtime.manifest import read_manifest, write_manifest


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshDevice]:
    sshd()
    made = SshDevice(tmp_path_factory.mktemp("device"))
    process = made.start()
    try:
        made.wait()
        yield made
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def device(server: SshDevice) -> SshDevice:
    """A device that nothing was deployed to."""
    server.wipe()
    return server


@pytest.fixture(scope="package")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two that differ in their states' dtype, and one that gives other tokens than its manifest says."""
    folder = tmp_path_factory.mktemp("bundles")
    for dtype in ("float32", "float16"):
        build_bundle(write_tiny_export(folder / f"export-{dtype}", dtype), "cpu", folder / dtype)
    build_bundle(folder / "export-float32", "cpu", folder / "wrong")
    manifest = read_manifest(folder / "wrong")
    assert manifest.self_test is not None
    write_manifest(replace(manifest, self_test=replace(manifest.self_test, tokens=(1, 2))), folder / "wrong")
    return folder / "float32", folder / "float16", folder / "wrong"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for all tests here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def running(
    device: SshDevice, bundles: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> SshDevice:
    """A device that the first bundle was deployed to, once for all tests."""
    kept = tmp_path_factory.getbasetemp() / "running"
    if kept.exists():
        shutil.copytree(kept, device.store, symlinks=True)
    else:
        deployed(device, bundles[0])
        shutil.copytree(device.store, kept, symlinks=True)
    return device
