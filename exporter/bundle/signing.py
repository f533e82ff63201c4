"""model.sig of a bundle or export, by the model-signing library; runtime/signature.py verifies it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.fields import Fields
from quamba_export.runtime.folder_check import SIGNATURE, integrity_error
from quamba_export.runtime.manifest import Manifest, read_manifest
from quamba_export.runtime.signature import check_signed, digests_of, envelope_of


@dataclass(frozen=True)
class Signed:
    """The `--json` object of `sign` and `verify`."""

    path: str
    digest: str  # sha256 of the manifest
    files: int
    signed_by: str  # the file of a key or certificates; "" where no signature was looked at


def sign_folder(folder: Path, key: Path, certificate: Path | None, chain: list[Path]) -> Signed:
    """Write model.sig over every file of a verified bundle/ or export/; an earlier one is replaced.

    key: PEM of the private key; certificate, chain: PEM of the certificate of that key, and of those above
    it. Raises QuambaError: exit 3 for a key that cannot sign, 4 for a folder that is not what it says.
    """
    from model_signing.hashing import Config as HashingConfig
    from model_signing.signing import Config

    partial = folder / f".{SIGNATURE}.partial"
    partial.unlink(missing_ok=True)  # of one that was killed: no bundle with it in it is accepted
    manifest = read_manifest(folder)
    try:
        config = Config()
        if certificate is None:
            config.use_elliptic_key_signer(private_key=key)
        else:
            config.use_certificate_signer(
                private_key=key, signing_certificate=certificate, certificate_chain=chain
            )
    except (
        OSError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:  # an encrypted key; a key without a curve
        raise QuambaError(
            f"{key} cannot sign",
            found=str(error),
            allowed="PEM of a private key on P-256, P-384 or P-521, not encrypted, and its own certificate",
            fix="openssl ecparam -name prime256v1 -genkey -noout -out new-key.pem",
        ) from error
    hashing = HashingConfig().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    ignored = [Path(SIGNATURE)]  # found in the folder
    config.set_hashing_config(hashing.set_ignored_paths(paths=ignored, ignore_git_paths=False))
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / SIGNATURE
        config.sign(folder, made)
        content = made.read_bytes()
    check_table(content, folder, manifest)
    try:
        partial.write_bytes(content)
        partial.replace(folder / SIGNATURE)
    finally:
        partial.unlink(missing_ok=True)
    return Signed(str(folder), manifest.digest, len(manifest.files) + 1, str(certificate or key))


def check_table(content: bytes, folder: Path, manifest: Manifest) -> None:
    """Raise QuambaError (exit 4) unless what the library signed is what was verified before."""
    where = str(folder / SIGNATURE)
    payload, _ = envelope_of(Fields.from_json(content, where, ""))
    name = "manifest.json" if manifest.kind == "bundle" else "export.json"
    present = {name: manifest.digest} | {name: entry.sha256 for name, entry in manifest.files.items()}
    check_signed(folder, digests_of(Fields.from_json(payload, where, "")), present)


def verify_folder(folder: Path, public_key: Path | None, chain: list[Path]) -> Signed:
    """Verify every file, and the signature where it is said by whom.

    public_key: PEM of the signer's key, or of the certificate signed with; chain: of the certificates that
    the signer's certificate must come from. Raises QuambaError (exit 4) where anything differs.
    """
    if public_key and chain:
        raise QuambaError(
            "a signature is verified by one means",
            found="--public-key and --certificate-chain",
            allowed="one of the two",
            code=ExitCode.USAGE,
        )
    manifest = read_manifest(folder, public_key)
    if chain:
        verify_chain(folder, chain)
    by = ", ".join(map(str, [public_key] if public_key else chain))
    return Signed(str(folder), manifest.digest, len(manifest.files) + 1, by)


def verify_chain(folder: Path, chain: list[Path]) -> None:
    """Through the library: the certificate in the signature must come from one of `chain`."""
    from cryptography.exceptions import InvalidSignature
    from model_signing.verifying import Config
    from OpenSSL.crypto import X509StoreContextError

    if not (folder / SIGNATURE).exists():
        raise integrity_error(f"{folder} is not signed", found=f"no {SIGNATURE}", allowed="a signature")
    refusals = (ValueError, LookupError, AttributeError, TypeError, InvalidSignature, X509StoreContextError)
    try:
        Config().use_certificate_verifier(certificate_chain=chain).verify(folder, folder / SIGNATURE)
    except refusals as error:  # the library lets a malformed file's errors through as they come
        raise integrity_error(
            f"{folder / SIGNATURE} does not hold",
            found=str(error) or type(error).__name__,
            allowed=f"a certificate that comes from {', '.join(map(str, chain))}",
        ) from error
