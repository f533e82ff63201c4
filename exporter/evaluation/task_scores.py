"""lm-eval's tasks on a model of any engine: the paper's six by one word, others by name, local ones too."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quamba_export.exporter.evaluation.language_models import LanguageModel
from quamba_export.runtime.errors import ExitCode, QuambaError, install_command

QUAMBA_TASKS = ("lambada_openai", "hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande")


@dataclass(frozen=True)
class Tasks:
    """Which tasks, and of what files.

    path:  a folder of task files (YAML); with it only those are known, and nothing is fetched.
    limit: examples of each task, its first.
    """

    names: tuple[str, ...]
    path: Path | None = None
    limit: int | None = None


def chosen_tasks(text: str | None, path: Path | None = None, limit: int | None = None) -> Tasks | None:
    """The tasks that `a,b` names, None for no text; `quamba` stands for the paper's.

    Raises QuambaError (exit 2): a text that names none, or the tasks' options without tasks.
    """
    if text is None:
        if path is not None or limit is not None:
            found = "--task-path" if path is not None else "--task-limit"
            fix = "add --tasks NAMES"
            raise QuambaError(f"{found} goes with --tasks", found="none", fix=fix, code=ExitCode.USAGE)
        return None
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        names += QUAMBA_TASKS if name == "quamba" else [name] if name else []
    if not names:
        allowed = "names of lm-eval's tasks, or quamba"
        raise QuambaError("--tasks names none", found=repr(text), allowed=allowed, code=ExitCode.USAGE)
    return Tasks(tuple(dict.fromkeys(names)), path, limit)


def check_known(tasks: Tasks) -> None:
    """Refuse (QuambaError, exit 2) a missing lm-eval and unknown tasks; reads no data."""
    with quiet(offline=True):
        task_manager(tasks)


def task_scores(model: LanguageModel, tasks: Tasks) -> dict[str, dict[str, float]]:
    """Metrics of every task, by lm-eval's names; a group has its own row.

    Raises QuambaError: exit 2 without lm-eval or for an unknown task, with the nearest one; exit 8 for a
    data set that is not there and cannot be fetched.
    """
    with reading(tasks):
        manager = task_manager(tasks)
        manager.load(list(tasks.names))  # whatever is raised below is the model's own
    with quiet(offline=tasks.path is not None):
        from lm_eval import simple_evaluate

        from quamba_export.exporter.evaluation.task_model import TaskModel

        found = simple_evaluate(
            model=TaskModel(model=model),
            tasks=list(tasks.names),
            task_manager=manager,
            limit=tasks.limit,
            log_samples=False,
            bootstrap_iters=0,
        )
    return {task: _metrics(row) for task, row in found["results"].items()}


def task_manager(tasks: Tasks) -> Any:
    """lm-eval's, which knows every one of `tasks`. Raises QuambaError (exit 2) without lm-eval, or for an
    unknown task.
    """
    try:
        from lm_eval import tasks as of_lm_eval
    except ImportError as error:
        raise QuambaError(
            "--tasks needs lm-eval",
            found=str(error),
            fix=install_command("tasks"),
            code=ExitCode.USAGE,
        ) from error
    if tasks.path is not None and not tasks.path.is_dir():
        raise QuambaError(f"no folder of tasks at {tasks.path}", allowed="a folder with task files (.yaml)")
    path = str(tasks.path) if tasks.path else None
    manager = of_lm_eval.TaskManager(include_path=path, include_defaults=tasks.path is None)
    _check(tasks.names, manager.all_tasks, tasks.path)
    return manager


@contextmanager
def reading(tasks: Tasks) -> Iterator[None]:
    """lm-eval's code, quiet; what it raises for data that it cannot read is a QuambaError (exit 8)."""
    with quiet(offline=tasks.path is not None):
        try:
            yield
        except (OSError, ConnectionError, ValueError) as error:  # what datasets raises for data it has not
            raise QuambaError(
                f"the data of the tasks {', '.join(tasks.names)} cannot be read",
                found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                fix="run with network once, or give local task files by --task-path",
                code=ExitCode.REMOTE,
            ) from error


def _check(names: Sequence[str], known: Sequence[str], task_path: Path | None) -> None:
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            shown = ", ".join(sorted(known)) if task_path and known else f"{len(known)} tasks"
            raise QuambaError(
                f"unknown task: {name}",
                allowed=f"{shown} of {task_path or 'lm-eval'}",
                fix=f"did you mean {near[0]}?" if near else "",
                code=ExitCode.USAGE,
            )


def _metrics(row: dict[str, Any]) -> dict[str, float]:
    """`acc,none` is acc; a filter of another name stays."""
    numbers = {key: value for key, value in row.items() if isinstance(value, (int, float))}
    return {key.removesuffix(",none"): float(value) for key, value in numbers.items() if "," in key}


@contextmanager
def quiet(offline: bool) -> Iterator[None]:
    """lm-eval logs a page, and its data sets look for newer versions in the network unless told not to."""
    before = {name: os.environ.get(name) for name in ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE")}
    level = logging.getLogger("lm_eval").level
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if offline:
        os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        logging.getLogger("lm_eval").setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
