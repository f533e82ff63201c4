"""Signed bundles: who signed is verified here, on the device before the switch, and at every load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from deploying import deployed, options, plan
from refusals import refused
from ssh_device import SshDevice

from quamba_export.exporter.bundle.signing import sign_folder
from quamba_export.exporter.deploy import actions
from quamba_export.exporter.deploy.actions import roll_back
from quamba_export.exporter.deploy.ssh import Session
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import files_of, read_manifest

Bundles = tuple[Path, Path, Path]
pytestmark = pytest.mark.xdist_group("device")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine.pem, other.pem and their .pub."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("mine", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
        public = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(key.private_bytes(*private, serialization.NoEncryption()))
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(*public))
    return folder


@pytest.fixture(scope="module")
def signed(bundles: Bundles, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles and my signature on each."""
    folder = tmp_path_factory.mktemp("signed")
    for bundle in bundles[:2]:
        shutil.copytree(bundle, folder / bundle.name)
        sign_folder(folder / bundle.name, keys / "mine.pem", None, [])
    return folder / bundles[0].name, folder / bundles[1].name


@pytest.fixture
def first(device: SshDevice, signed: tuple[Path, Path], keys: Path) -> SshDevice:
    """A device with the first of them."""
    kept = keys / "deployed"
    if kept.exists():
        shutil.copytree(kept, device.store, symlinks=True)
    else:
        deployed(device, signed[0], signer=keys / "mine.pub")
        shutil.copytree(device.store, kept, symlinks=True)
    return device


def on_device(device: SshDevice, *words: object) -> subprocess.CompletedProcess[str]:
    """The current release's launcher."""
    current = device.store / "current"
    command = [str(current / "bin/quamba-export"), *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_signed_bundle_is_verified_on_the_device_too(first: SshDevice, keys: Path) -> None:
    current = first.store / "current"
    assert (current / "signer.pem").read_bytes() == (keys / "mine.pub").read_bytes()
    run = ("run", current / "bundle", "--prompt", "the a", "--json", "--require-signature")
    assert json.loads(on_device(first, *run, current / "signer.pem").stdout)["token_ids"]
    done = on_device(first, *run, keys / "other.pub")
    assert (done.returncode, "is not by the key" in done.stderr) == (ExitCode.INTEGRITY, True)


def test_what_is_not_signed_by_the_key_is_not_sent(
    device: SshDevice, bundles: Bundles, signed: tuple[Path, Path], keys: Path, tmp_path: Path
) -> None:
    with refused("is not signed", code=ExitCode.INTEGRITY):
        plan(bundles[0], signer=keys / "mine.pub")
    with refused("is not by the key", code=ExitCode.INTEGRITY):
        plan(signed[0], signer=keys / "other.pub")
    with refused("is no key to verify with"):
        plan(signed[0], signer=tmp_path / "none.pub")


def other_signature(bundle: Path, keys: Path) -> None:
    sign_folder(bundle, keys / "other.pem", None, [])


def test_a_signature_that_could_not_be_written_spoils_no_bundle(
    bundles: Bundles, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles[0], bundle)

    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space"):
            sign_folder(bundle, keys / "mine.pem", None, [])
    assert read_manifest(bundle).files
    (bundle / ".model.sig.partial").touch()  # of a process that was killed
    sign_folder(bundle, keys / "mine.pem", None, [])
    assert read_manifest(bundle, keys / "mine.pub").files


def other_file(bundle: Path, keys: Path) -> None:
    """In a bundle that is whole by its own manifest."""
    with (bundle / "generation_config.json").open("a") as file:
        file.write("\n")
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"] = files_of(bundle)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("tamper", [other_signature, other_file])
def test_what_was_changed_on_the_way_is_refused_before_the_switch(
    first: SshDevice,
    signed: tuple[Path, Path],
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
    tamper: Callable[[Path, Path], None],
) -> None:
    copied, before = actions.copy_folder, first.current

    def changed(session: Session, source: Path, target: str, *more: Any) -> None:
        copied(session, source, target, *more)
        if target.endswith("/bundle"):
            tamper(Path(target), keys)

    monkeypatch.setattr(actions, "copy_folder", changed)
    with refused(code=ExitCode.INTEGRITY):
        deployed(first, signed[1], signer=keys / "mine.pub")
    assert first.current == before
    assert [path.name for path in (first.store / "releases").iterdir()] == [before]


def test_going_back_verifies_again(first: SshDevice, signed: tuple[Path, Path], keys: Path) -> None:
    old = first.current
    now = deployed(first, signed[1], signer=keys / "mine.pub").current
    bundle = first.store / f"releases/{old}/bundle"
    other_signature(bundle, keys)
    with Session("known", options(first)) as session, refused("not by the key", code=ExitCode.INTEGRITY):
        roll_back(session, lambda step: None)
    assert first.current == now
    again = deployed(first, signed[0], signer=keys / "mine.pub")
    assert (again.state, again.damaged) == ("repaired", "bundle/model.sig is not what was installed")
    (first.store / "current/signer.pem").unlink()
    assert deployed(first, signed[0], signer=keys / "mine.pub").state == "repaired"
    assert (first.store / "current/signer.pem").read_bytes() == (keys / "mine.pub").read_bytes()


def test_a_service_that_asks_for_a_signature_is_not_given_another_bundle(
    first: SshDevice, bundles: Bundles, signed: tuple[Path, Path], keys: Path
) -> None:
    before = deployed(first, signed[0], signer=keys / "mine.pub", port=8000).current  # the unit only
    unit = first.folder / "home/.config/systemd/user/quamba-export.service"
    assert f" --require-signature {first.store}/current/signer.pem\n" in unit.read_text()
    with refused("takes signed bundles only", "--systemd", code=ExitCode.INTEGRITY):
        deployed(first, bundles[1])
    assert first.current == before
    assert deployed(first, bundles[1], port=8000).before == before
    assert "signature" not in unit.read_text()


def test_an_export_is_verified_before_the_device_builds_of_it(
    device: SshDevice, bundles: Bundles, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = tmp_path / "export"
    shutil.copytree(bundles[0].with_name("export-float32"), export)
    sign_folder(export, keys / "mine.pem", None, [])
    copied = actions.copy_folder

    def changed(session: Session, source: Path, target: str, *more: Any) -> None:
        copied(session, source, target, *more)
        if target.endswith("/export"):
            other_signature(Path(target), keys)

    monkeypatch.setattr(actions, "copy_folder", changed)
    with refused("does not hold on the device", "not by the key", code=ExitCode.INTEGRITY):
        deployed(device, export, target="cpu", signer=keys / "mine.pub")
    assert device.current is None
