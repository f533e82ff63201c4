"""`quamba-export run`: continue a prompt with a bundle. Needs the runtime's extra only."""

from __future__ import annotations

import io
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json, ProviderOption
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quamba_export.runtime.generate import Generation, Piece

STDIN = Path("-")


def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle/ or export/ directory.")],
    prompt: Annotated[
        str | None, typer.Option(help='Text to continue; "" starts a new document (end-of-text token).')
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="UTF-8 file to continue, as it is; - for standard input.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "--genlen", help="End after so many tokens.")
    ] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy; 1 is the model's own distribution.")] = 0.0,
    top_k: Annotated[
        int, typer.Option("--top-k", "--topk", help="Draw from the K most probable tokens; 0: all.")
    ] = 0,
    top_p: Annotated[
        float, typer.Option("--top-p", "--topp", help="Draw from the likeliest tokens that reach this share.")
    ] = 1.0,
    min_p: Annotated[
        float, typer.Option("--min-p", "--minp", help="Drop tokens below this share of the likeliest one.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1 makes tokens that have occurred less likely.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text. May be repeated.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: one a physical core.")] = 0,
    provider: ProviderOption = None,
    as_json: Json = False,
) -> None:
    """Continue a prompt, token by token; what it cost goes to stderr.

    Example: quamba-export run bundle/ --prompt "In the beginning" --temperature 0.8 --top-p 0.95 --seed 7
    """
    from quamba_export.runtime.bundle import open_bundle
    from quamba_export.runtime.generate import Limits
    from quamba_export.runtime.sampling import Sampling

    text = read_prompt(prompt, prompt_file)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    opened = open_bundle(bundle, threads=threads, provider=provider)
    limits = Limits(max_new_tokens, tuple(stop or ()), opened.manifest.eos_token_id)
    for warning in opened.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    generation = show(opened.stream([text], limits, sampling), quiet=as_json)
    result = {"prompt": text, **asdict(generation), "seed": seed, "warnings": opened.warnings}
    emit(result, as_json, lambda _: print(summary(result), file=sys.stderr))


def read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    """The text of the one of the two flags that was given."""
    if (prompt is None) == (prompt_file is None):
        raise QuambaError(
            "run needs one prompt",
            found="no prompt" if prompt is None else "--prompt and --prompt-file",
            allowed='--prompt TEXT or --prompt-file FILE; --prompt "" starts a new document',
            code=ExitCode.USAGE,
        )
    if prompt_file is None:
        return prompt or ""
    try:
        content = sys.stdin.buffer.read() if prompt_file == STDIN else prompt_file.read_bytes()
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QuambaError(
            f"{prompt_file} cannot be a prompt", found=str(error), allowed="UTF-8 text"
        ) from error


def show(pieces: Iterator[Piece], *, quiet: bool) -> Generation:
    """Write the pieces of one sequence to stdout as they come; return what is known at its end."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character ends nothing
    generations: list[Generation] = []
    for piece in pieces:
        if not quiet:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
        generations += [piece.generation] if piece.generation else []
    if not quiet:
        print(flush=True)  # before the summary on stderr, where both go to one file
    return generations[0]


def summary(result: dict[str, Any]) -> str:
    """One line for people: lengths, reason, speed."""
    lengths = f"{result['prompt_tokens']} prompt + {len(result['token_ids'])} new tokens"
    parts = [f"{lengths} ({result['finish_reason']})"]
    if result["ttft_ms"] is not None:
        parts.append(f"TTFT {result['ttft_ms']:.1f} ms")
    if result["tpot_ms"] is not None:
        parts.append(f"TPOT {result['tpot_ms']:.2f} ms, {result['tokens_per_second']:.1f} tokens/s")
    return ", ".join(parts)
