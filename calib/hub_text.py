"""Text of a Hugging Face dataset, by its name; a mistyped path looks like one, and is told soon."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from quamba_export.calib.nearest_path import nearest_path
from quamba_export.runtime.errors import QuambaError, install_command

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[^:/]+){0,2}")
SECONDS = 10  # for the hub's first answer


def is_hub_name(name: str) -> bool:
    """Whether NAME, NAME:SPLIT or NAME:CONFIG:SPLIT can name a dataset: a path with two slashes cannot."""
    return HUB_NAME.fullmatch(name) is not None


def dataset_documents(name: str) -> Iterator[str]:
    """The column "text" of a dataset, row by row.

    Raises QuambaError where there is no such dataset, in the hub or in its cache, or none with text.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise QuambaError(
            f"no text file {name}, and Hugging Face datasets cannot be read without the datasets package",
            fix=nearest_path(Path(name))
            or f"give a .txt or .jsonl file, or for a dataset {install_command('hub')}",
        ) from error
    repository, *rest = name.split(":")
    config, split = (rest[0] if len(rest) == 2 else None), (rest[-1] if rest else "train")
    _keep_to_the_cache_without_a_hub(repository)
    try:
        dataset = load_dataset(repository, config, split=split)
    except Exception as error:  # the package raises its own, its dependencies' and the network's errors
        raise QuambaError(
            f"no text file and no Hugging Face dataset {name}",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            allowed="a .txt or .jsonl file, or a dataset as NAME, NAME:SPLIT or NAME:CONFIG:SPLIT",
            fix=nearest_path(Path(name)),
        ) from error
    if "text" not in dataset.column_names:
        raise QuambaError(
            f"dataset {name} has no column of text",
            found=", ".join(dataset.column_names),
            allowed='a column "text"',
        )
    for record in dataset:
        yield record["text"]


def _keep_to_the_cache_without_a_hub(repository: str) -> None:
    """Ask the hub once: load_dataset would ask one that cannot be reached six times, for half a minute."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().dataset_info(repository, timeout=SECONDS)
    except HfHubHTTPError:
        return  # it answered: load_dataset says what
    except Exception:  # its transport's own
        constants.HF_HUB_OFFLINE = True
