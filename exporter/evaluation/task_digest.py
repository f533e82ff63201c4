"""What lm-eval's tasks are, by content: read once before any work, so that scores can be kept by it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from quamba_export.exporter.evaluation.task_scores import Tasks, reading, task_manager

TASK_FILES = (".yaml", ".yml", ".py")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of a function that has no source to show


def tasks_digest(tasks: Tasks) -> str:
    """SHA-256 of the files of `tasks.path`, and of every task: its definition, its examples, its few shots.

    Raises QuambaError as task_scores does, so that an unknown task or missing data is refused here.
    """
    digest = hashlib.sha256()
    with reading(tasks):
        for part in _parts(tasks):
            line = json.dumps(part, sort_keys=True, default=str)
            digest.update(ADDRESS.sub("", line).encode() + b"\n")
    return digest.hexdigest()


def _parts(tasks: Tasks) -> Iterator[Any]:
    yield [tasks.names, tasks.limit, version("lm-eval")]
    if tasks.path:
        for path in sorted(path for path in tasks.path.rglob("*") if path.suffix in TASK_FILES):
            yield [path.relative_to(tasks.path).as_posix(), path.read_text()]
    loaded = task_manager(tasks).load(list(tasks.names))["tasks"]
    for name, task in sorted(loaded.items()):
        yield [name, task.dump_config()]
        yield from (example for _, example in task.doc_iterator(limit=tasks.limit))
        if task.config.num_fewshot:
            yield from task.fewshot_docs()
