"""A sweep: every variant calibrated and scored, each once; what is done is kept by a digest of what it is.

out/calibrations/DIGEST  by checkpoint, recipe and samples: variants that differ in the rest share one
out/scores/DIGEST.json   by that, the form of the model, and the text and tasks it is scored on
out/sweep.json, sweep.html: the table (exporter/studies/sweep_table.py)

A run that was stopped goes on when it is started again, and another sweep into the same folder takes what it
shares with this one.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from quamba_export.calib.checkpoints.checkpoint import Checkpoint, load_checkpoint
from quamba_export.calib.data import data_digest, token_stream
from quamba_export.calib.device import torch_device
from quamba_export.calib.mixed_data import Source, mixed_windows
from quamba_export.calib.recipes.recipe import Recipe
from quamba_export.calib.workers import end_with_parent, one_thread
from quamba_export.exporter.evaluation.cloze import read_passages
from quamba_export.exporter.evaluation.evaluate import Mode, check_length
from quamba_export.exporter.evaluation.task_digest import tasks_digest
from quamba_export.exporter.evaluation.task_scores import Tasks
from quamba_export.exporter.studies.variants import Variant
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.output_path import check_outside
from quamba_export.runtime.whole_file import whole_file

T = TypeVar("T")
Advance = Callable[[str], None]


@dataclass(frozen=True)
class Study:
    """What the variants of a sweep share: checkpoint, samples, and the text and tasks that are scored."""

    checkpoint: str
    sources: tuple[Source, ...]
    calib_size: int
    calib_seqlen: int
    score: str
    window: int
    max_tokens: int | None
    modes: tuple[Mode, ...]
    cloze: int | None
    out: Path
    tasks: Tasks | None = None
    device: str = "cpu"  # of calibration and scores


@dataclass(frozen=True)
class Keys:
    """Digests of what a study's results depend on, besides the variant."""

    checkpoint: str
    samples: str
    score: str
    device: str = "cpu"  # its kind: a GPU has other bits

    @classmethod
    def of(cls, study: Study, checkpoint: Checkpoint) -> Keys:
        """Reads both texts and the tasks. Raises QuambaError where one is too short or cannot be read."""
        if checkpoint.tokenizer_path is None:
            raise QuambaError(f"checkpoint {study.checkpoint} has no tokenizer", allowed="a tokenizer.json")
        reading = checkpoint.tokenizer_path, checkpoint.eos_token_id
        samples = mixed_windows(study.sources, *reading, count=study.calib_size, size=study.calib_seqlen)
        stream = token_stream(study.score, *reading, limit=study.max_tokens)
        check_length(stream)
        passages = read_passages(study.score, study.cloze) if study.cloze else []
        how: list[Any] = [study.window, list(study.modes), [asdict(passage) for passage in passages]]
        if study.tasks:
            how.append(tasks_digest(study.tasks))
        scored = data_digest(stream[None]) + json.dumps(how)
        return cls(checkpoint.digest, data_digest(samples), scored, study.device.partition(":")[0])

    def calibration(self, recipe: Recipe) -> str:
        made_of = [self.checkpoint, self.samples, recipe.as_table(), version("quamba-export")]
        return _digest(made_of if self.device == "cpu" else [*made_of, self.device])

    def result(self, variant: Variant) -> str:
        form = [variant.qformat, variant.ssm_state_dtype, asdict(variant.ssm_input)]
        return _digest([self.calibration(variant.recipe), form, self.score])


def run_sweep(
    study: Study, variants: Sequence[Variant], *, workers: int = 1, advance: Advance = lambda done: None
) -> list[dict[str, Any]]:
    """The scores of every variant, in their order; whatever an earlier run left in `study.out` is taken.

    Raises QuambaError: what torch_device, a calibration or an evaluation raises, exit 2 for a folder that
    would spoil a bundle, exit 7 where a process dies.
    """
    torch_device(study.device)
    check_outside(study.out / "scores")
    keys = Keys.of(study, load_checkpoint(study.checkpoint))
    missing = [v for v in variants if not _score_path(study, keys, v).is_file()]
    recipes = {keys.calibration(v.recipe): v.recipe for v in missing}
    todo = [(study, recipe, digest) for digest, recipe in recipes.items()]
    for done in _in_processes(_calibrate, todo, workers):
        advance(f"calibrated {done}")
    unique = {keys.result(v): v for v in missing}
    for done in _in_processes(_score, [(study, keys, v) for v in unique.values()], workers):
        advance(f"scored {done}")
    return [json.loads(_score_path(study, keys, variant).read_text()) for variant in variants]


def _calibrate(task: tuple[Study, Recipe, str]) -> str:
    """Calibrate once; unfinished work of an earlier run is taken up."""
    from quamba_export.calib.calibrate import calibrate, partial_directory

    study, recipe, digest = task
    target = study.out / "calibrations" / digest
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        calibrate(
            load_checkpoint(study.checkpoint),
            study.sources,
            recipe,
            calib_size=study.calib_size,
            calib_seqlen=study.calib_seqlen,
            out_dir=target,
            resume=partial_directory(target).exists(),
            device=study.device,
        )
    return recipe.name


def _score(task: tuple[Study, Keys, Variant]) -> str:
    """Score one variant beside float and keep what was found."""
    from quamba_export.exporter.studies.score_variant import score_variant

    study, keys, variant = task
    path = _score_path(study, keys, variant)
    path.parent.mkdir(parents=True, exist_ok=True)
    with one_thread():
        scores = score_variant(study, variant, study.out / "calibrations" / keys.calibration(variant.recipe))
    with whole_file(path) as file:
        file.write(json.dumps(scores).encode())
    return variant.name


def _in_processes(work: Callable[[T], str], tasks: Sequence[T], workers: int) -> Iterator[str]:
    """work(task) of each, one thread a process; in this one where workers is 1."""
    if workers == 1 or len(tasks) < 2:
        yield from (work(task) for task in tasks)
        return
    context, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    with ProcessPoolExecutor(min(workers, len(tasks)), context, end_with_parent) as pool:
        pending = [pool.submit(work, task) for task in tasks]
        try:
            for finished in as_completed(pending):
                yield finished.result()
        except BrokenProcessPool as error:
            fix = "run the same command again, with fewer --workers if memory is short"
            raise QuambaError("a process of the sweep died", fix=fix, code=ExitCode.INCOMPLETE) from error
        except (KeyboardInterrupt, SystemExit, GeneratorExit):  # they would work to their end; a run goes on
            for process in set(multiprocessing.active_children()).difference(others):
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _score_path(study: Study, keys: Keys, variant: Variant) -> Path:
    return study.out / "scores" / f"{keys.result(variant)}.json"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
