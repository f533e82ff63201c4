"""`quamba-export verify`: whether a bundle is what its manifest says, and whose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json


def verify(
    folder: Annotated[Path, typer.Argument(help="A bundle/ or export/ directory.")],
    public_key: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="The signer's public key, or the certificate signed with."),
    ] = None,
    certificate_chain: Annotated[
        list[Path] | None,
        typer.Option(metavar="PEM", help="Certificates that the signer's must come from. May be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every file against the manifest, and the signature where a key or certificates are named.

    Exits with 4 where a file is not what it was, or the signature is another's.

    Example: quamba-export verify bundle/ --public-key key.pub
    """
    from quamba_export.exporter.bundle.signing import verify_folder

    result = verify_folder(folder, public_key, certificate_chain or [])
    signer = f"signed by {result.signed_by}" if result.signed_by else "no signature asked for"
    emit(
        result, as_json, lambda console: console.print(f"{result.path}: {result.files} files hold, {signer}")
    )
