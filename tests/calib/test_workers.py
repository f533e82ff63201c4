import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import worker_tasks
from random_checkpoints import MAMBA1, random_checkpoint

from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.workers import Workers
from quamba_export.runtime.errors import ExitCode, QuambaError


@pytest.fixture(scope="module")
def model():
    model = FloatMamba.from_checkpoint(random_checkpoint(MAMBA1))
    model.out_hadamard = True
    return model


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with Workers(2, tmp_path_factory.mktemp("scratch")) as workers:
        yield workers


def batches(count):
    return list(np.random.default_rng(0).integers(0, 64, (count, 2, 9)))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_two_processes_give_the_bits_of_one_in_order(pool, model, tmp_path, count):
    two = list(pool.run(worker_tasks.logits, model, batches(count)))
    with Workers(1, tmp_path) as one_process:
        one = list(one_process.run(worker_tasks.logits, model, batches(count)))
    assert len(two) == len(one) == count
    for (found, addresses, threads), (expected, _, own_threads) in zip(two, one, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert addresses == {0}
        assert threads == own_threads == 1


def test_a_second_model_replaces_the_first(pool, model):
    other = FloatMamba.from_checkpoint(random_checkpoint(MAMBA1, seed=1))
    first, second = (next(pool.run(worker_tasks.logits, m, batches(1)))[0] for m in (model, other))
    assert np.abs(first - second).max() > 1e-3


def test_an_error_in_a_worker_is_raised_here(pool, model):
    with pytest.raises(QuambaError, match=r"(?s)no such work.*found: \(2, 9\)"):
        list(pool.run(worker_tasks.refuse, model, batches(1)))


def test_threads_are_restored(tmp_path, model):
    before = torch.get_num_threads()
    with Workers(1, tmp_path) as workers:
        list(workers.run(worker_tasks.logits, model, batches(1)))
    assert torch.get_num_threads() == before


def test_a_dead_worker_is_named_and_the_run_can_be_resumed(tmp_path, model):
    work = [np.full((1, 1), first) for first in (1, 2, 7, 4, 5, 6)]
    results = []
    with (
        pytest.raises(QuambaError, match="worker died") as caught,
        Workers(2, tmp_path) as workers,
    ):
        results.extend(workers.run(worker_tasks.die, model, work))
    assert caught.value.code == ExitCode.INCOMPLETE
    assert "exit code 3" in str(caught.value)
    assert "--resume" in str(caught.value)


STARTED = {
    "calibration": """
with Workers(2, Path({scratch!r})) as workers:
    list(workers.run(worker_tasks.stay, FloatMamba.from_checkpoint(random_checkpoint(MAMBA1)), [0, 0]))
""",
    "sweep": "list(_in_processes(worker_tasks.stay_at, ['a', 'b'], 2))",
}
IMPORTS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import worker_tasks
from random_checkpoints import MAMBA1, random_checkpoint
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.workers import Workers
from quamba_export.exporter.studies.sweep import _in_processes

if __name__ == "__main__":
"""


@pytest.mark.parametrize("kind", STARTED)
def test_workers_end_with_a_parent_that_is_killed(tmp_path, kind):
    """Otherwise they hold memory and locks, and write into the files of the next run."""
    names = {"tests": str(Path(__file__).parents[1]), "scratch": str(tmp_path)}
    script = tmp_path / "script.py"
    script.write_text((IMPORTS + textwrap.indent(STARTED[kind], "    ")).format(**names))
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    assert all(is_running(worker) for worker in workers)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 20
    while any(is_running(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.05)
    left = [worker for worker in workers if is_running(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left


def is_running(process):
    """Whether it is there and not a dead one that nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
