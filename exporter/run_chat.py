"""A chat in the terminal: lines in, answers out, a few commands that begin with a slash."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from quamba_export.exporter.console import say
from quamba_export.exporter.run_batch import peak_memory_mb
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from quamba_export.runtime.bundle import Bundle
    from quamba_export.runtime.chat import Chat
    from quamba_export.runtime.generate import Limits
    from quamba_export.runtime.sampling import Sampling
    from quamba_export.runtime.saved_states import SavedStates

HELP = """/rewind [N]   take back the last N questions and their answers (1)
/save FILE    write the states of now to a file, for --load-state: a fork of this chat
/quit         leave (so does the end of input)
Ctrl-C ends an answer, which is then not part of the chat."""


def chat_in_terminal(
    chat: Chat, limits: Limits, sampling: Sampling, read: Callable[[str], str]
) -> list[float | None]:
    """Until /quit or the end of input. read: a line for a prompt, EOFError at the end, as `input`.

    Answers go to stdout, everything else to stderr. Returns the tokens/s of every answer, None of one token.
    """
    speeds: list[float | None] = []
    say("/help lists the commands")
    while True:
        try:
            line = read("> ")
        except (EOFError, KeyboardInterrupt):
            return speeds
        if line.strip() == "/quit":
            return speeds
        try:
            if line.startswith("/"):
                command(chat, line)
            elif line.strip() and show_answer(chat, line, limits, sampling) and chat.generation:
                speeds.append(chat.generation.tokens_per_second)
        except QuambaError as error:  # of one line: the chat goes on
            if error.code not in (ExitCode.USAGE, ExitCode.INVALID_INPUT):
                raise
            say(f"error: {error}")


def command(chat: Chat, line: str) -> None:
    """A line that begins with a slash. Raises QuambaError (exit 2) for one that is not known."""
    name, _, argument = line.strip().partition(" ")
    if name == "/help":
        say(HELP)
    elif name == "/rewind" and len(argument) < 10 and (argument.isdecimal() or not argument):
        chat.rewind(int(argument or 1))
        say(f"{sum(message.role == 'user' for message in chat.messages)} questions are left")
    elif name == "/save" and argument:
        say(f"{save(chat, Path(argument))} bytes in {argument}")
    else:
        raise QuambaError("no such command", found=line, allowed=HELP, code=ExitCode.USAGE)


def save(chat: Chat, path: Path) -> int:
    """Write where the chat stands; a full disk or an odd name ends no chat. Returns the file's bytes."""
    from quamba_export.runtime.saved_states import save_states

    try:
        return save_states(path, chat.saved(marks=1), chat.bundle.manifest)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise QuambaError(f"{path!s:.200} was not written", found=str(error), code=ExitCode.USAGE) from error


def show_answer(chat: Chat, line: str, limits: Limits, sampling: Sampling) -> bool:
    """Whether the answer came to its end."""
    try:
        for piece in chat.answer(line, limits, sampling):
            print(piece, end="", flush=True)  # also where there is no stdout
        print(flush=True)
    except KeyboardInterrupt:
        print(flush=True)
        say("ended; this question and its answer are not part of the chat")
        return False
    if chat.generation and chat.generation.tpot_ms:
        tokens, speed = len(chat.generation.token_ids), chat.generation.tokens_per_second
        say(f"{tokens} tokens, TTFT {chat.generation.ttft_ms:.0f} ms, {speed:.1f} tokens/s")
    return True


def talk(
    opened: Bundle,
    before: SavedStates | None,
    system: str,
    limits: Limits,
    sampling: Sampling,
    save_state: Path | None,
    marks: int,
) -> None:
    """Chat until the end of input, then say how fast it was."""
    from quamba_export.runtime.chat import Chat
    from quamba_export.runtime.saved_states import save_states

    chat = Chat(opened, before, system)
    speeds = chat_in_terminal(chat, limits, sampling, ask)
    if save_state is not None:
        save_states(save_state, chat.saved(marks), opened.manifest)
    known = [speed for speed in speeds if speed]
    mean = f"{sum(known) / len(known):.1f} tokens/s, " if known else ""
    answers = "1 answer" if len(speeds) == 1 else f"{len(speeds)} answers"
    say(f"{answers}, {mean}peak memory {peak_memory_mb():.0f} MB")


def ask(prompt: str) -> str:
    """A line of input, with line editing in a terminal; the prompt goes to stderr."""
    if not sys.stdin.isatty():
        if line := sys.stdin.readline():
            return line.rstrip("\n")
        raise EOFError
    import readline  # noqa: F401 (input() edits lines once it is imported)

    return input(prompt)
