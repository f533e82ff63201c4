"""Float models run in worker processes, one thread each, with results in order.

The batches are fixed before the work is shared out and every process computes with one thread, so the number
of workers changes the time and not one bit of a result. Weights lie in memory once: workers map one file.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quamba_export.calib.data import Tokens
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.runtime.errors import ExitCode, QuambaError

ALIGNMENT = (
    64  # bytes, torch's own: a weight at another address may take another path through a matrix product
)

Work = Callable[[FloatMamba, Tokens], Any]  # a module-level function or a picklable object


@dataclass(frozen=True)
class _MappedModel:
    """A float model whose weights lie in a file: name -> (first value, shape)."""

    model: FloatMamba  # without its tensors
    path: Path
    places: dict[str, tuple[int, tuple[int, ...]]]

    @classmethod
    def write(cls, model: FloatMamba, path: Path) -> _MappedModel:
        places, end, step = {}, 0, ALIGNMENT // 4
        with path.open("wb") as file:
            for name, tensor in model.tensors.items():
                places[name] = (end, tuple(tensor.shape))
                file.seek(end * 4)
                file.write(tensor.contiguous().numpy().tobytes())
                end += -(-tensor.numel() // step) * step
            file.truncate(end * 4)
        return cls(replace(model, tensors={}), path, places)

    def open(self) -> FloatMamba:
        size = self.path.stat().st_size // 4
        flat = torch.from_file(str(self.path), shared=False, size=size, dtype=torch.float32)
        tensors = {name: _part(flat, *place) for name, place in self.places.items()}
        return replace(self.model, tensors=tensors)


def _part(flat: Tensor, first: int, shape: tuple[int, ...]) -> Tensor:
    return flat[first : first + int(np.prod(shape, dtype=np.int64))].view(shape)


class Workers(AbstractContextManager["Workers"]):
    """`count` processes, or this one where count is 1. `scratch` is an existing directory for the weights."""

    keeps_samples = True  # what they write of a sample is there for a run that is resumed

    def __init__(self, count: int, scratch: Path) -> None:
        self.count, self.scratch = count, scratch
        self._processes: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> Workers:
        context = multiprocessing.get_context("spawn")
        for _ in range(self.count if self.count > 1 else 0):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()  # so that a worker's end is closed by its death
            self._processes.append((process, ours))
        return self

    def __exit__(self, *_: object) -> None:
        for process, connection in self._processes:
            connection.close()
            process.terminate()
            process.join()

    def run(self, work: Work, model: FloatMamba, batches: Sequence[Tokens]) -> Iterator[Any]:
        """work(model, batch) for every batch, in the order of the batches.

        Raises what `work` raises, and QuambaError (exit 7) where a worker dies.
        """
        if not self._processes:
            with one_thread():
                yield from (work(model, batch) for batch in batches)
            return
        mapped = _MappedModel.write(model, self.scratch / "weights.bin")
        ahead = len(self._processes)
        for index in range(ahead):
            self._send(index, (work, mapped))
        for index, batch in enumerate(batches[:ahead]):
            self._send(index, batch)
        for index in range(len(batches)):
            result = self._receive(index)
            if index + ahead < len(batches):
                self._send(index, batches[index + ahead])
            yield result

    def _send(self, index: int, message: object) -> None:
        """To the process of batch `index`. Plain pickle: torch's own would share tensors through handles."""
        process, connection = self._processes[index % len(self._processes)]
        try:
            connection.send_bytes(pickle.dumps(message))
        except OSError as error:
            raise _worker_died(process) from error

    def _receive(self, index: int) -> Any:
        process, connection = self._processes[index % len(self._processes)]
        try:
            result = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise _worker_died(process) from error
        if isinstance(result, Exception):
            raise result
        return result


def _worker_died(process: BaseProcess) -> QuambaError:
    process.join()
    return QuambaError(
        "a calibration worker died",
        found=f"exit code {process.exitcode}" + (" (out of memory?)" if process.exitcode == -9 else ""),
        fix="run it again with --resume, and with fewer --workers if memory is short",
        code=ExitCode.INCOMPLETE,
    )


def end_with_parent() -> None:
    """End this process, whatever it is at, when the one that started it is gone, by a kill as well.

    What it still wrote could be in the files of a run that was started since.
    """

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _serve(connection: Connection) -> None:
    """A worker: (work, model) sets the task, anything else is a batch; the parent's end stops it."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    torch.set_num_threads(1)
    while True:
        try:
            message = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        if isinstance(message, tuple):
            work, model = message[0], message[1].open()
            continue
        try:
            answer = work(model, message)
        except Exception as error:  # raised again in the parent
            answer = error
        connection.send_bytes(pickle.dumps(answer))


@contextmanager
def one_thread() -> Iterator[None]:
    """torch computes with one thread, as every worker does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
