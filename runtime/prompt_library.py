"""A folder of states of prompts that begin many texts: each is computed once, by whoever needs it first.

A prompt is found by its tokens and its model, so a library may serve several bundles, and two texts with the
same tokens share a file; nothing is looked up by a name that a person could give twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from quamba_export.runtime.engine import Engine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest
from quamba_export.runtime.output_path import check_outside
from quamba_export.runtime.saved_states import SavedStates, feed, load_states, save_states
from quamba_export.runtime.saved_states_header import VERSION

MENDS = "delete the file: it is computed anew"


def file_of_prompt(library: Path, ids: Sequence[int], manifest: Manifest) -> Path:
    """Where the library keeps the states of these tokens; files of another format have other names."""
    key = f"{VERSION} {manifest.export_digest} {' '.join(map(str, ids))}"
    return library / f"{sha256(key.encode()).hexdigest()}.safetensors"


def states_of_prompt(library: Path, ids: Sequence[int], engine: Engine, manifest: Manifest) -> SavedStates:
    """The states of a prompt, one token or more: from the library, or computed and put there.

    Two processes that compute one prompt at once write the same file, each atomically. A file that cannot be
    used is an error, as in `load_states`, and is not computed again: a library that changes is worth a look.
    """
    file = file_of_prompt(library, ids, manifest)
    if not file.exists():
        make_folder(library)
        saved = feed(engine, ids)
        save_states(file, saved, manifest)
        return saved
    try:
        saved = load_states(file, engine, manifest)
    except QuambaError as error:
        error.fix = MENDS
        raise
    if saved.history.tokens != tuple(ids):
        raise QuambaError(
            f"{file} holds the states of another prompt",
            found=f"{saved.tokens} tokens, then token {saved.next_token}",
            allowed=f"this prompt: {len(ids) - 1} tokens, then token {ids[-1]}",
            fix=MENDS,
            code=ExitCode.INTEGRITY,
        )
    return saved


def make_folder(library: Path) -> None:
    """The folder, new or as it is. Raises QuambaError (exit 2) where there cannot be one."""
    check_outside(library)
    try:
        library.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QuambaError(
            f"{library} cannot be a prompt library", found=str(error), allowed="a folder", code=ExitCode.USAGE
        ) from error
