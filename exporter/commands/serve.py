"""`quamba-export serve`: a bundle behind OpenAI's HTTP API. Needs the runtime's extra and `serve`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json, ProviderOption, RequireSignature

TOKEN_VARIABLE = "QUAMBA_SERVE_TOKEN"


def serve(
    bundle: Annotated[Path, typer.Argument(help="A bundle/ or export/ directory.")],
    host: Annotated[str, typer.Option(help="Address to listen on; off loopback a token is required.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0: a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar=TOKEN_VARIABLE, help="What requests must carry as `Authorization: Bearer`."),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Sequences decoded together; 4, or what the bundle takes.")
    ] = None,
    queue: Annotated[int, typer.Option(help="Sequences that may wait; more are refused with 429.")] = 32,
    max_sessions: Annotated[int, typer.Option(help="Sessions whose states are kept; 0: none.")] = 16,
    session_turns: Annotated[
        int, typer.Option(help="Turns of a session whose states are kept: an edited message goes back.")
    ] = 2,
    session_seconds: Annotated[float, typer.Option(help="A session unused for so long is forgotten.")] = 3600,
    max_tokens: Annotated[int, typer.Option(help="The most new tokens one sequence may ask for.")] = 4096,
    max_body: Annotated[int, typer.Option(help="Largest request, bytes; a larger one gets 413.")] = 1 << 20,
    timeout: Annotated[float, typer.Option(help="Seconds a request may take, waiting included.")] = 300,
    grace: Annotated[float, typer.Option(help="Seconds for requests in flight after SIGTERM.")] = 10,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: one a physical core.")] = 0,
    provider: ProviderOption = None,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Serve a bundle: OpenAI's completions and chat, a chat page, metrics; until SIGTERM or Ctrl-C.

    Example: quamba-export serve bundle/ --port 8000
    """
    from quamba_export.runtime.bundle import open_bundle
    from quamba_export.runtime.serve.places import places_for
    from quamba_export.runtime.serve.server import serve as serve_bundle
    from quamba_export.runtime.serve.settings import Settings

    settings = Settings(
        host=host,
        port=port,
        token=token,
        queue=queue,
        max_sessions=max_sessions,
        session_turns=session_turns,
        session_seconds=session_seconds,
        max_tokens=max_tokens,
        max_body=max_body,
        timeout=timeout,
        grace=grace,
    )
    opened = open_bundle(bundle, threads=threads, provider=provider, require_signature=require_signature)
    settings = replace(settings, max_batch=places_for(opened.manifest, max_batch))
    for warning in opened.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    serve_bundle(opened, settings, lambda url: say_where(bundle.resolve().name, url, as_json))


def say_where(model: str, url: str, as_json: bool) -> None:
    """Once the server accepts connections."""
    line = f"serving {model} on {url}"
    emit({"model": model, "url": url}, as_json, lambda _: print(line, file=sys.stderr))
    sys.stdout.flush()
