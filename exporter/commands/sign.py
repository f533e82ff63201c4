"""`quamba-export sign`: who vouches for a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json


def sign(
    folder: Annotated[Path, typer.Argument(help="A bundle/ or export/ directory.")],
    key: Annotated[Path, typer.Option(metavar="PEM", help="Private key on P-256, P-384 or P-521.")],
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="PEM", help="Certificate of that key, which goes into the signature."),
    ] = None,
    certificate_chain: Annotated[
        list[Path] | None,
        typer.Option(metavar="PEM", help="Certificates between it and the root. May be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Sign every file of a bundle: writes model.sig into it (OpenSSF Model Signing).

    Example: quamba-export sign bundle/ --key key.pem
    """
    from quamba_export.exporter.bundle.signing import sign_folder

    result = sign_folder(folder, key, certificate, certificate_chain or [])
    emit(result, as_json, lambda console: console.print(f"{result.path}: {result.files} files signed"))
