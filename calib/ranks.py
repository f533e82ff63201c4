"""One calibration on several hosts or GPUs: the processes that torchrun started share out the samples.

Every rank runs the same program on the same checkpoint and text. A pass over the samples is cut into the same
micro-batches as without ranks; rank r works on every world_size-th of them, then all ranks are given the
results of all and fold them in the order of the samples: 1, 2 and 4 ranks give the same bits. Rank 0 alone
keeps the progress and writes the artefact. Messages go through gloo, which needs no GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from quamba_export.calib.data import Tokens
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.workers import Work, Workers, one_thread
from quamba_export.runtime.errors import ExitCode, QuambaError


def rank() -> int:
    """This process's number among those that torchrun started; 0 where torchrun did not start it."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


def world_size() -> int:
    """How many processes torchrun started; 1 where it started none."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


class Ranks(Workers):
    """Workers that are the ranks themselves, this one among them; every rank must make the same calls."""

    keeps_samples = False  # each rank has the files of its own samples, and those of ranks above 0 are gone

    def __init__(self, scratch: Path) -> None:
        super().__init__(1, scratch)

    def run(self, work: Work, model: FloatMamba, batches: Sequence[Tokens]) -> Iterator[Any]:
        """See `Workers.run`: every rank is given the results of all batches.

        Raises what `work` raised on any rank, and QuambaError (exit 7) where another rank has ended.
        """
        own, count = dist.get_rank(), dist.get_world_size()
        for first in range(0, len(batches), count):
            batch = batches[first + own : first + own + 1]
            for result in _gathered([_outcome(work, model, tokens) for tokens in batch]):
                if isinstance(result, Exception):
                    raise result
                yield result

    def check_same(self, identity: Mapping[str, str]) -> None:
        """Raise QuambaError on every rank where one is about another calibration than rank 0.

        identity: what the statistics of this rank depend on, by the words of a refusal.
        """
        first, *others = _gathered([dict(identity)])
        for number, own in enumerate(others, start=1):
            for name in first:
                if own.get(name) != first[name]:
                    raise QuambaError(
                        f"rank {number} has another {name} than rank 0",
                        found=str(own.get(name)),
                        allowed=first[name],
                        fix="give every rank the same command, checkpoint, text, torch and model of GPU",
                    )

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        return _gathered([value] if dist.get_rank() == 0 else [])[0]


def _outcome(work: Work, model: FloatMamba, batch: Tokens) -> Any:
    try:
        with one_thread():
            return work(model, batch)
    except Exception as error:  # raised on every rank
        return error


def _gathered(values: list[Any]) -> list[Any]:
    """The values of all ranks, rank 0's first."""
    gathered: list[list[Any] | None] = [None] * dist.get_world_size()
    try:
        dist.all_gather_object(gathered, values)
    except RuntimeError as error:  # gloo: a closed connection, or none in time
        raise QuambaError(
            "another rank of this calibration has ended",
            found=f"rank {dist.get_rank()} of {dist.get_world_size()}: {str(error).splitlines()[0]}",
            fix="see what that rank said, then run the same command with --resume",
            code=ExitCode.INCOMPLETE,
        ) from error
    return [value for part in gathered for value in part or ()]


@contextmanager
def workers_or_ranks(workers: int, scratch: Path) -> Iterator[Workers]:
    """The ranks where torchrun started this process, else `workers` processes.

    Raises QuambaError (exit 2) for several workers in several ranks: start more ranks.
    """
    if world_size() == 1:
        with Workers(workers, scratch) as pool:
            yield pool
        return
    if workers != 1:
        raise QuambaError(
            "workers and ranks together",
            found=f"--workers {workers} in a run of {world_size()} ranks",
            allowed="--workers 1 under torchrun",
            fix="raise torchrun's --nproc-per-node instead",
            code=ExitCode.USAGE,
        )
    dist.init_process_group("gloo")
    try:
        yield Ranks(scratch)
    finally:
        dist.destroy_process_group()
