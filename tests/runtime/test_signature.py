"""model.sig: signed by the library, verified without it; another key, file, bundle or envelope is refused."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from tiny_bundle import write_tiny_bundle
from tiny_flow import run_json

from quamba_export.runtime.bundle import open_bundle
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import read_manifest
from quamba_export.runtime.signature import pre_authentication


@dataclass(frozen=True)
class Keys:
    """PEM files: a pair for each curve, another's pair, and a certificate of the first with its root."""

    folder: Path

    def __getattr__(self, name: str) -> Path:
        return self.folder / f"{name}.pem"


def write_pair(keys: Keys, name: str, curve: ec.EllipticCurve) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(curve)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (keys.folder / f"{name}.pem").write_bytes(private)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (keys.folder / f"{name}_public.pem").write_bytes(public)
    return key


def certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: tuple[str, ec.EllipticCurvePrivateKey],
    *,
    authority: bool,
) -> bytes:
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer[0])]
    today = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(names[1], names[0], key.public_key(), x509.random_serial_number())
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False), True
        )
    )
    return builder.sign(issuer[1], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    keys = Keys(tmp_path_factory.mktemp("keys"))
    mine = write_pair(keys, "p256", ec.SECP256R1())
    for name, curve in (("p384", ec.SECP384R1()), ("p521", ec.SECP521R1()), ("other", ec.SECP256R1())):
        write_pair(keys, name, curve)
    for root in ("root", "other_root"):
        authority = write_pair(keys, f"{root}_key", ec.SECP256R1())
        (keys.folder / f"{root}.pem").write_bytes(
            certificate(root, authority, (root, authority), authority=True)
        )
        if root == "root":
            (keys.folder / "leaf.pem").write_bytes(
                certificate("leaf", mine, (root, authority), authority=False)
            )
    return keys


@pytest.fixture(scope="module")
def signed_once(keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("signed"))
    run_json("sign", folder, "--key", keys.p256)
    return folder


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed_once, tmp_path / "bundle"))


def refused(folder: Path, key: Path, text: str, code: ExitCode = ExitCode.INTEGRITY) -> QuambaError:
    with pytest.raises(QuambaError, match=text) as caught:
        open_bundle(folder, threads=1, require_signature=key)
    assert (caught.value.code, bool(caught.value.found)) == (code, True)
    return caught.value


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_what_was_signed_is_loaded(keys: Keys, tmp_path: Path, curve: str) -> None:
    folder = write_tiny_bundle(tmp_path)
    assert run_json("sign", folder, "--key", getattr(keys, curve))["files"] == 6
    public = getattr(keys, f"{curve}_public")
    open_bundle(folder, threads=1, require_signature=public)
    assert run_json("verify", folder, "--public-key", public)["signed_by"] == str(public)
    assert run_json("verify", folder)["signed_by"] == ""  # the files alone
    run_json("verify", folder, "--public-key", keys.other_public, exit_code=4)


def test_run_requires_a_signature_where_it_is_told_to(keys: Keys, signed: Path) -> None:
    prompt = ("--prompt", "the", "--max-new-tokens", 2, "--threads", 1)
    run_json("run", signed, *prompt, "--require-signature", keys.p256_public)
    run_json("run", signed, *prompt, "--require-signature", keys.other_public, exit_code=4)
    (signed / "model.sig").unlink()
    run_json("run", signed, *prompt)
    run_json("run", signed, *prompt, "--require-signature", keys.p256_public, exit_code=4)


def test_a_signature_with_a_certificate_holds_by_it_and_by_its_root(keys: Keys, signed: Path) -> None:
    run_json("sign", signed, "--key", keys.p256, "--certificate", keys.leaf, "--certificate-chain", keys.root)
    open_bundle(signed, threads=1, require_signature=keys.leaf)
    run_json("verify", signed, "--certificate-chain", keys.root)
    run_json("verify", signed, "--certificate-chain", keys.other_root, exit_code=4)
    run_json("verify", signed, "--certificate-chain", keys.root, "--public-key", keys.leaf, exit_code=2)
    (signed / "model.sig").write_text("{}")
    run_json("verify", signed, "--certificate-chain", keys.root, exit_code=4)
    (signed / "model.sig").unlink()
    run_json("verify", signed, "--certificate-chain", keys.root, exit_code=4)


def test_a_certificate_of_another_key_cannot_sign(keys: Keys, signed: Path) -> None:
    run_json("sign", signed, "--key", keys.other, "--certificate", keys.leaf, exit_code=3)


def altered(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": 1}')


def resealed(folder: Path) -> None:
    """Another file, and a manifest that was changed with it."""
    (folder / "config.json").write_text('{"a": 1}')
    record = json.loads((folder / "manifest.json").read_text())
    entry = {"sha256": "a" * 64, "size": 8}
    (folder / "manifest.json").write_text(
        json.dumps(record | {"files": record["files"] | {"config.json": entry}})
    )


def unsigned(folder: Path) -> None:
    (folder / "model.sig").unlink()


def of_another_bundle(folder: Path) -> None:
    """All digests hold, but the signature is of one that says another producer."""
    change(folder / "manifest.json", lambda record: record.update(producer="another"))


def linked(folder: Path) -> None:
    (folder / "model.sig").rename(folder.parent / "model.sig")
    (folder / "model.sig").symlink_to(folder.parent / "model.sig")


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))


ATTACKS = {
    altered: "config.json has changed",
    resealed: "signs another manifest.json",
    unsigned: "is not signed",
    of_another_bundle: "signs another manifest.json",
    linked: "cannot be used",
}


@pytest.mark.parametrize(("attack", "text"), ATTACKS.items(), ids=[f.__name__ for f in ATTACKS])
def test_what_was_not_signed_is_refused(
    keys: Keys, signed: Path, attack: Callable[[Path], None], text: str
) -> None:
    attack(signed)
    refused(signed, keys.p256_public, text)


ENVELOPES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no envelope": lambda bundle: bundle.pop("dsseEnvelope"),
    "another media type": lambda bundle: bundle.update(mediaType="text/plain"),
    "another payload type": lambda bundle: bundle["dsseEnvelope"].update(payloadType="x"),
    "no signature": lambda bundle: bundle["dsseEnvelope"].update(signatures=[]),
    "two signatures": lambda bundle: bundle["dsseEnvelope"]["signatures"].append({"sig": ""}),
    "an empty signature": lambda bundle: bundle["dsseEnvelope"]["signatures"][0].update(sig=""),
    "no base64": lambda bundle: bundle["dsseEnvelope"].update(payload="*"),
    "letters beyond ASCII": lambda bundle: bundle["dsseEnvelope"].update(payload="\u0410"),
    "another payload": lambda bundle: bundle["dsseEnvelope"].update(payload=base64.b64encode(b"{}").decode()),
}


@pytest.mark.parametrize("edit", ENVELOPES.values(), ids=ENVELOPES.keys())
def test_a_malformed_envelope_is_refused(
    keys: Keys, signed: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    change(signed / "model.sig", edit)
    refused(signed, keys.p256_public, "model.sig")


def sign_statement(keys: Keys, folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """By the right key, but another statement."""
    bundle = json.loads((folder / "model.sig").read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    edit(statement)
    payload = json.dumps(statement).encode()
    key = serialization.load_pem_private_key(keys.p256.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    sig = key.sign(pre_authentication(payload), ec.ECDSA(hashes.SHA256()))
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(sig).decode()
    (folder / "model.sig").write_text(json.dumps(bundle))


STATEMENTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a file less": lambda statement: statement["predicate"]["resources"].pop(),
    "a file more": lambda statement: statement["predicate"]["resources"].append(
        {"name": "run.sh", "algorithm": "sha256", "digest": "a" * 64}
    ),
    "a file twice": lambda statement: statement["predicate"]["resources"].append(
        statement["predicate"]["resources"][0]
    ),
    "no files": lambda statement: statement["predicate"].update(resources=[]),
    "another algorithm": lambda statement: statement["predicate"]["resources"][0].update(algorithm="md5"),
    "shards": lambda statement: statement["predicate"]["serialization"].update(method="shards"),
    "another predicate": lambda statement: statement.update(predicateType="x"),
    "no statement": lambda statement: statement.clear(),
}


@pytest.mark.parametrize("edit", STATEMENTS.values(), ids=STATEMENTS.keys())
def test_another_statement_by_the_right_key_is_refused(
    keys: Keys, signed: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    sign_statement(keys, signed, lambda statement: None)
    read_manifest(signed, keys.p256_public)
    sign_statement(keys, signed, edit)
    refused(signed, keys.p256_public, "model.sig")


def test_a_file_that_is_no_key_is_named(keys: Keys, signed: Path, tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    pem = rsa_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for content in (
        pem,
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        keys.p256.read_bytes(),
    ):
        (tmp_path / "key.pem").write_bytes(content)
        refused(signed, tmp_path / "key.pem", "is no key to verify with", ExitCode.INVALID_INPUT)
    refused(signed, tmp_path / "nowhere.pem", "is no key to verify with", ExitCode.INVALID_INPUT)


def test_a_folder_may_be_signed_again_by_a_relative_path(
    keys: Keys, signed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(signed.parent)
    for _ in range(2):
        run_json("sign", signed.name, "--key", keys.p256)
    open_bundle(signed, threads=1, require_signature=keys.p256_public)


def test_a_key_that_cannot_sign_is_named(keys: Keys, signed: Path, tmp_path: Path) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    pem = rsa_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "rsa.pem").write_bytes(pem)
    run_json("sign", signed, "--key", tmp_path / "rsa.pem", exit_code=3)
    run_json("sign", signed, "--key", tmp_path / "nowhere.pem", exit_code=3)
    run_json("sign", signed, "--key", keys.p256_public, exit_code=3)
