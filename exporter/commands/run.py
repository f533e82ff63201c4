"""`quamba-export run`: continue a prompt, many from a file, or chat. Needs the runtime's extra only."""

from __future__ import annotations

import io
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quamba_export.exporter.console import emit
from quamba_export.exporter.options import Json, ProviderOption, RequireSignature
from quamba_export.exporter.run_batch import continue_file, peak_memory_mb
from quamba_export.exporter.run_chat import talk
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from quamba_export.runtime.bundle import Bundle
    from quamba_export.runtime.decoder import HostDecoder
    from quamba_export.runtime.generate import Generation, Piece
    from quamba_export.runtime.saved_states import SavedStates

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
    load_state: Annotated[
        Path | None, typer.Option(help="Go on from the states in this file, with a prompt or without.")
    ] = None,
    save_state: Annotated[
        Path | None, typer.Option(help="Write the states at the end of the text to this file.")
    ] = None,
    rewind: Annotated[
        int, typer.Option(help="Go on from so many tokens before the end of --load-state's text.")
    ] = 0,
    marks: Annotated[
        int, typer.Option(help="Earlier states in --save-state's file, so that --rewind computes less.")
    ] = 1,
    prefix_file: Annotated[
        Path | None, typer.Option(help="UTF-8 text in front of the prompt, with --prompt-library.")
    ] = None,
    prompt_library: Annotated[
        Path | None, typer.Option(help="Folder of states: the prefix is computed once, then read from here.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Chat in the terminal; /help lists its commands.")
    ] = False,
    system: Annotated[str, typer.Option(help="What the chat is told first.")] = "",
    prompts: Annotated[
        Path | None,
        typer.Option(help="Continue every prompt of a .jsonl file, or every line of another one."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="With --prompts: the .jsonl file of the results.")
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="With --prompts: sequences at a time; 4, or what the bundle takes.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0: one a physical core.")] = 0,
    provider: ProviderOption = None,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Continue a prompt, token by token; what it cost goes to stderr.

    Example: quamba-export run bundle/ --prompt "In the beginning" --temperature 0.8 --top-p 0.95 --seed 7
    """
    from quamba_export.runtime.bundle import open_bundle
    from quamba_export.runtime.decoder import HostDecoder
    from quamba_export.runtime.generate import Limits, stream
    from quamba_export.runtime.sampling import Sampling
    from quamba_export.runtime.saved_states import save_states

    check_mode(
        chat=chat,
        prompts=prompts,
        out=out,
        prompt=prompt,
        prompt_file=prompt_file,
        as_json=as_json,
        new=max_new_tokens,
    )
    no_prompt = (
        chat or prompts is not None or (load_state is not None and prompt is None and prompt_file is None)
    )
    text = "" if no_prompt else read_prompt(prompt, prompt_file)
    check_state_flags(load_state, save_state, prefix_file, prompt_library)
    check_rewind_flags(load_state, rewind, marks)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    opened = open_bundle(bundle, threads=threads, provider=provider, require_signature=require_signature)
    limits = Limits(max_new_tokens, tuple(stop or ()), opened.manifest.eos_token_id)
    for warning in opened.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if prompts is not None and out is not None:
        continue_file(opened, prompts, out, limits, sampling, max_batch, as_json=as_json)
        return
    before = states_before(opened, load_state, rewind, prefix_file, prompt_library)
    if chat:
        talk(opened, before, system, limits, sampling, save_state, marks)
        return
    ids = opened.encode(text) if text or before is None else []
    fed = [*([before.next_token] if before else []), *ids]
    earlier = before.as_marks() if before and save_state else []
    behind = [before.history.known] if before else []
    decoder = HostDecoder(opened.engine, sampling, [before.states] if before else [], behind)
    generation = show(stream(decoder, opened.tokenizer, [fed], limits, behind), quiet=as_json)
    if save_state is not None:
        at_end = states_at_end(opened, decoder, before, ids, generation)
        save_states(save_state, at_end.marked(earlier, marks), opened.manifest)
    result = {"prompt": text, **asdict(generation), "tokens_before": before.tokens if before else 0}
    result |= {"seed": seed, "saved_state": str(save_state) if save_state else None}
    result["warnings"], result["peak_memory_mb"] = opened.warnings, peak_memory_mb()
    emit(result, as_json, lambda _: print(summary(result), file=sys.stderr))


def check_mode(
    *,
    chat: bool,
    prompts: Path | None,
    out: Path | None,
    prompt: str | None,
    prompt_file: Path | None,
    as_json: bool,
    new: int,
) -> None:
    """Refuse (exit 2) flags of different uses of the command."""
    given = {
        "--chat": chat,
        "--prompts": prompts,
        "--prompt": prompt is not None,
        "--prompt-file": prompt_file,
    }
    uses = [flag for flag, value in given.items() if value]
    if len(uses) > 1 and (chat or prompts):
        found, allowed = " and ".join(uses), "one of them"
    elif (prompts is None) != (out is None):
        found, allowed = "-o alone" if out else "--prompts alone", "--prompts FILE -o OUT.jsonl"
    elif new < 1 and (chat or prompts):
        found, allowed = f"--max-new-tokens {new}", "1 or more, with --chat and --prompts"
    elif chat and as_json:
        found, allowed = "--chat and --json", "one of them"
    else:
        return
    raise QuambaError("these flags do not go together", found=found, allowed=allowed, code=ExitCode.USAGE)


def check_state_flags(
    load_state: Path | None, save_state: Path | None, prefix_file: Path | None, prompt_library: Path | None
) -> None:
    """Refuse flags that do not go together and a file that cannot be written, before anything is run."""
    from quamba_export.runtime.output_path import check_writable

    if (prefix_file is None) != (prompt_library is None) or (prefix_file and load_state):
        given = {"--prefix-file": prefix_file, "--prompt-library": prompt_library, "--load-state": load_state}
        raise QuambaError(
            "what comes before the prompt is one text or one file of states",
            found=" and ".join(flag for flag, value in given.items() if value),
            allowed="--load-state FILE, or --prefix-file FILE --prompt-library FOLDER",
            code=ExitCode.USAGE,
        )
    if save_state is not None:
        check_writable(save_state)


def check_rewind_flags(load_state: Path | None, rewind: int, marks: int) -> None:
    """Refuse (exit 2) a rewind of nothing and numbers out of range."""
    from quamba_export.runtime.saved_states_header import MAX_MARKS

    if rewind < 0 or (rewind and load_state is None):
        found, allowed = f"--rewind {rewind}", "0 or more tokens, with --load-state FILE"
    elif not 0 <= marks <= MAX_MARKS:
        found, allowed = f"--marks {marks}", f"0 to {MAX_MARKS}"
    else:
        return
    raise QuambaError("this cannot be rewound", found=found, allowed=allowed, code=ExitCode.USAGE)


def states_before(
    opened: Bundle,
    load_state: Path | None,
    rewind: int,
    prefix_file: Path | None,
    prompt_library: Path | None,
) -> SavedStates | None:
    """What the prompt goes on from: a file's states, a library's, or nothing."""
    from quamba_export.runtime.prompt_library import states_of_prompt
    from quamba_export.runtime.rewind import rewound
    from quamba_export.runtime.saved_states import load_states

    if load_state is not None:
        saved = load_states(load_state, opened.engine, opened.manifest)
        return rewound(opened.engine, saved, rewind) if rewind else saved
    if prefix_file is None or prompt_library is None:
        return None
    ids = opened.encode(read_prompt(None, prefix_file))
    return states_of_prompt(prompt_library, ids, opened.engine, opened.manifest)


def states_at_end(
    opened: Bundle, decoder: HostDecoder, before: SavedStates | None, ids: list[int], generation: Generation
) -> SavedStates:
    """The states at the end of prompt and text; those of the prompt where no token was asked for."""
    from quamba_export.runtime.history import history_after
    from quamba_export.runtime.saved_states import SavedStates, feed

    if not generation.token_ids:  # the model has not run
        return feed(opened.engine, ids, before)
    fed = [*([before.next_token] if before else []), *ids]
    history = history_after(before.history if before else None, fed, generation.token_ids)
    return SavedStates(decoder.finish(), history)


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
            print(piece.text, end="", flush=True)  # also where there is no stdout
        generations += [piece.generation] if piece.generation else []
    if not quiet:
        print(flush=True)  # before the summary on stderr, where both go to one file
    return generations[0]


def summary(result: dict[str, Any]) -> str:
    """One line for people: lengths, reason, speed."""
    lengths = f"{result['prompt_tokens']} prompt + {len(result['token_ids'])} new tokens"
    if result["tokens_before"]:
        lengths = f"{result['tokens_before']} saved + {lengths}"
    parts = [f"{lengths} ({result['finish_reason']})"]
    if result["ttft_ms"] is not None:
        parts.append(f"TTFT {result['ttft_ms']:.1f} ms")
    if result["tpot_ms"] is not None:
        parts.append(f"TPOT {result['tpot_ms']:.2f} ms, {result['tokens_per_second']:.1f} tokens/s")
    parts.append(f"peak memory {result['peak_memory_mb']:.0f} MB")
    if result["saved_state"]:
        parts.append(f"states in {result['saved_state']}")
    return ", ".join(parts)
