"""Partial results of a calibration on disk, so that a killed run goes on where it stopped.

One file, replaced in one step: totals of every stage so far, the samples they cover, the run they are of.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import safetensors.numpy
from safetensors import SafetensorError, safe_open

from quamba_export.calib.observers.observer import Statistic
from quamba_export.runtime.errors import QuambaError

FILE, LOCK = "progress.safetensors", "lock"

Totals = dict[str, Statistic]  # by site


@contextmanager
def locked(directory: Path) -> Iterator[Path]:
    """`directory`, made where it is missing, for this process alone; a kill frees it.

    Raises QuambaError where another process has it: two runs would write one progress file and, while the
    workers of both have it mapped, one file of weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise QuambaError(
                f"another calibration is at work in {directory}", fix="wait for its end, or choose another -o"
            ) from error
        yield directory


@dataclass
class ProgressFile:
    """Totals by stage, kept in `directory`.

    identity: what the totals depend on, by the words a refusal uses; a run resumes only its own totals.
    """

    directory: Path
    identity: Mapping[str, str]
    done: dict[str, int] = field(default_factory=dict)  # stage -> samples
    totals: dict[str, Totals] = field(default_factory=dict)  # stage -> totals

    @classmethod
    def start(cls, directory: Path, identity: Mapping[str, str], *, resume: bool) -> ProgressFile:
        """An empty one in an existing directory, or with `resume` the one on disk if there is one.

        Raises QuambaError where the one on disk is of another run, naming what differs.
        """
        path = directory / FILE
        if resume and path.exists():
            return cls._read(directory, identity)
        path.unlink(missing_ok=True)
        return cls(directory, identity)

    @classmethod
    def _read(cls, directory: Path, identity: Mapping[str, str]) -> ProgressFile:
        path = directory / FILE
        try:
            with safe_open(str(path), framework="numpy") as file:
                header = json.loads(file.metadata()["progress"])
                found, done = dict(header["identity"]), dict(header["done"])
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise QuambaError(
                f"{path} cannot be read", found=str(error), fix="run without --resume"
            ) from error
        differing = [name for name in identity if found.get(name) != identity[name]]
        if differing:
            name = differing[0]
            raise QuambaError(
                f"cannot resume: the unfinished calibration in {directory} has another {name}",
                found=str(found.get(name)),
                allowed=identity[name],
                fix="give the same arguments as before, or start anew without --resume",
            )
        totals: dict[str, Totals] = {stage: {} for stage in done}
        for name, value in stored.items():
            stage, site, key = name.split("|")
            totals[stage].setdefault(site, {})[key] = value
        return cls(directory, identity, done, totals)

    def save(self) -> None:
        """Write everything; a kill at any moment leaves this state or the one before."""
        tensors = {
            f"{stage}|{site}|{key}": value
            for stage, totals in self.totals.items()
            for site, statistic in totals.items()
            for key, value in statistic.items()
        }
        header = json.dumps({"identity": dict(self.identity), "done": self.done})
        path = self.directory / FILE
        staging = path.with_suffix(".tmp")
        with staging.open("wb") as file:
            file.write(safetensors.numpy.save(tensors, metadata={"progress": header}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(staging, path)

    def remove(self) -> None:
        """The file first: a kill in between leaves nothing that a run would go on from."""
        (self.directory / FILE).unlink(missing_ok=True)
        shutil.rmtree(self.directory)
