"""`model.sig`: who vouches for a bundle. The model-signing library makes it; cryptography alone verifies it.

The format is OpenSSF Model Signing v1.0: a Sigstore bundle with a DSSE envelope, in it an in-toto statement
that names every file with its sha256, signed by ECDSA (P-256, P-384 or P-521) over DSSE's pre-authentication
encoding. The library itself brings 25 packages, too much for a device; what it signs is verified here, and
what is verified here it verifies too.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.fields import Fields
from quamba_export.runtime.folder_check import SIGNATURE, integrity_error
from quamba_export.runtime.held_files import HeldFiles

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
CURVES = ("secp256r1", "secp384r1", "secp521r1")
MAX_KEY_BYTES = 64 << 10


def signed_digests(files: HeldFiles, key: Path) -> dict[str, str]:
    """The sha256 of every file that model.sig names, by name; it is the work of `key`.

    key: a PEM file with the signer's public key, or with the certificate that was signed with. Raises
    QuambaError: exit 4 for no signature, another key's or a malformed one, 3 for a file that is no such key.
    """
    public_key = read_public_key(key)
    if SIGNATURE not in files.names():
        raise QuambaError(
            f"{files.folder} is not signed",
            found=f"no {SIGNATURE}",
            allowed=f"a signature by {key}",
            fix=f"let its maker sign it: quamba-export sign {files.folder} --key PRIVATE_KEY",
            code=ExitCode.INTEGRITY,
        )
    content, where = files.content(SIGNATURE), f"{files.folder / SIGNATURE}"
    try:
        payload, signature = envelope_of(Fields.from_json(content, where, "sign the bundle anew"))
        check_bytes(payload, signature, public_key, f"{where} is not by the key in {key}")
        return digests_of(Fields.from_json(payload, where, "sign the bundle anew"))
    except QuambaError as error:
        raise integrity_error(error.message, found=error.found, allowed=error.allowed) from error


def read_public_key(path: Path) -> EllipticCurvePublicKey:
    """The key in a PEM file, or of the certificate in it. Raises QuambaError (exit 3)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_BYTES)
        if b"BEGIN CERTIFICATE" in content:
            key: object = x509.load_pem_x509_certificate(content).public_key()
        else:
            key = load_pem_public_key(content)
    except (OSError, ValueError) as error:
        raise no_key(path, str(error)) from error
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise no_key(path, f"another kind of key: {type(key).__name__}")
    return key


def no_key(path: Path, found: str) -> QuambaError:
    return QuambaError(
        f"{path} is no key to verify with",
        found=found,
        allowed="PEM of a public key on P-256, P-384 or P-521, or of a certificate with one",
        fix="the public key of a private one: openssl ec -in PRIVATE.pem -pubout -out PUBLIC.pem",
    )


def envelope_of(bundle: Fields) -> tuple[bytes, bytes]:
    """What is signed, and the signature. Raises QuambaError."""
    bundle.choice("mediaType", (MEDIA_TYPE,))
    envelope = bundle.object("dsseEnvelope")
    envelope.choice("payloadType", (PAYLOAD_TYPE,))
    signatures = envelope.objects("signatures")
    if len(signatures) != 1:
        raise envelope.error("signatures", str(len(signatures)), "one")
    return decoded(envelope, "payload"), decoded(signatures[0], "sig")


def decoded(fields: Fields, key: str) -> bytes:
    text: str = fields.get(key, str, "base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise fields.error(key, str(error), "base64") from error


def check_bytes(payload: bytes, signature: bytes, key: EllipticCurvePublicKey, message: str) -> None:
    """Raise QuambaError with `message` (exit 4) unless `signature` is `key`'s of `payload`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

    by_size = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    try:
        key.verify(signature, pre_authentication(payload), ECDSA(by_size[key.curve.key_size]))
    except InvalidSignature as error:
        found = "a signature by another key, or of other content"
        raise integrity_error(message, found=found, allowed="a signature by that key") from error


def pre_authentication(payload: bytes) -> bytes:
    """DSSE v1: what is signed instead of the payload alone."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def digests_of(statement: Fields) -> dict[str, str]:
    """The files of an in-toto statement by name. Raises QuambaError."""
    statement.choice("_type", (STATEMENT,))
    statement.choice("predicateType", (PREDICATE,))
    predicate = statement.object("predicate")
    predicate.object("serialization").choice("method", ("files",))
    digests: dict[str, str] = {}
    for resource in predicate.objects("resources"):
        resource.choice("algorithm", ("sha256",))
        name = resource.text("name")
        if name in digests:
            raise resource.error("name", ascii(name), "every file once")
        digests[name] = resource.digest("digest")
    return digests


def check_signed(folder: Path, signed: Mapping[str, str], present: Mapping[str, str]) -> None:
    """Raise QuambaError (exit 4) unless the signature names the files `present`, and with these digests."""
    for name in (*present, *signed):
        if signed.get(name) != present.get(name):
            raise integrity_error(
                f"{folder / SIGNATURE} signs another {name}",
                found=f"sha256 {present[name]}" if name in present else "no such file",
                allowed=f"sha256 {signed[name]}" if name in signed else "a file that was signed",
            )
