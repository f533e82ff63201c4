"""lm-eval's tasks on a model of any engine: the paper's six by one word, others by name, local ones too."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quamba_export.exporter.evaluation.language_models import LanguageModel
from quamba_export.runtime.errors import ExitCode, QuambaError

QUAMBA_TASKS = ("lambada_openai", "hellaswag", "piqa", "arc_easy", "arc_challenge", "winogrande")


def task_names(text: str) -> list[str]:
    """`a,b` as names; `quamba` stands for the paper's tasks. Raises QuambaError (exit 2) for none."""
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        names += QUAMBA_TASKS if name == "quamba" else [name] if name else []
    if not names:
        allowed = "names of lm-eval's tasks, or quamba"
        raise QuambaError("--tasks names none", found=repr(text), allowed=allowed, code=ExitCode.USAGE)
    return list(dict.fromkeys(names))


def task_scores(
    model: LanguageModel, names: Sequence[str], task_path: Path | None = None, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Metrics of every task, by lm-eval's names; a group has its own row.

    task_path: a folder of task files (YAML); with it only those are known, and nothing is fetched.
    limit:     examples of each task. Raises QuambaError: exit 2 without lm-eval or for an unknown task, with
    the nearest one; exit 8 for a data set that is not there and cannot be fetched.
    """
    with quiet(offline=task_path is not None):
        manager, evaluate, task_model = _lm_eval(task_path)
        _check(names, manager.all_tasks, task_path)
        try:
            found = evaluate(
                model=task_model(model=model),
                tasks=list(names),
                task_manager=manager,
                limit=limit,
                log_samples=False,
                bootstrap_iters=0,
            )
        except (OSError, ConnectionError, ValueError) as error:  # what datasets raises for data it has not
            raise QuambaError(
                f"the data of the tasks {', '.join(names)} cannot be read",
                found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                fix="run with network once, or give local task files by --task-path",
                code=ExitCode.REMOTE,
            ) from error
    return {task: _metrics(row) for task, row in found["results"].items()}


def _lm_eval(task_path: Path | None) -> tuple[Any, Any, Any]:
    """Task manager, lm-eval's evaluation, and our model for it."""
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise QuambaError(
            "--tasks needs lm-eval",
            found=str(error),
            fix='pip install "quamba-export[tasks]"',
            code=ExitCode.USAGE,
        ) from error
    from quamba_export.exporter.evaluation.task_model import TaskModel

    if task_path is not None and not task_path.is_dir():
        raise QuambaError(f"no folder of tasks at {task_path}", allowed="a folder with task files (.yaml)")
    path = str(task_path) if task_path else None
    return TaskManager(include_path=path, include_defaults=task_path is None), simple_evaluate, TaskModel


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
