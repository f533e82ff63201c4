"""One calibration by several ranks over gloo: forked processes with the environment that torchrun gives."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from random_checkpoints import MAMBA2, random_checkpoint

from quamba_export.calib.calibrate import calibrate, partial_directory
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.runtime.errors import ExitCode, QuambaError

EMBEDDED = Path(__file__).parents[2] / "embedded"
SAMPLES, LENGTH = 22, 12  # five whole micro-batches and a part of one
FORK = multiprocessing.get_context("fork")


def calibrate_into(out, folder, **options):
    checkpoint = random_checkpoint(MAMBA2, 0, folder / "tokenizer.json")
    options = {"calib_size": SAMPLES, "calib_seqlen": LENGTH, "out_dir": out, **options}
    return calibrate(checkpoint, folder / "text.txt", **options)


def one_rank(number, count, port, results, dies_at, arguments, options, other):
    """A rank's process: puts its exit code and what it said; rank 1 dies at micro-batch dies_at, and takes
    the options `other` in place of its own.
    """
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(count), "MASTER_PORT": str(port)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    if dies_at is not None and number == 1:
        from quamba_export.calib import ranks

        outcome, seen = ranks._outcome, []

        def die(*work):
            seen.append(work)
            if len(seen) > dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return outcome(*work)

        ranks._outcome = die
    try:
        calibrate_into(*arguments, **(options | other if number == 1 else options))
        results.put((number, 0, ""))
    except QuambaError as error:
        results.put((number, error.code, str(error)))


def by_ranks(count, out, folder, *, dies_at=None, other=None, **options):
    """calibrate_into by `count` ranks: rank -> exit code and message; the dead one says nothing."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = FORK.Queue()
    shared = (port, results, dies_at, (out, folder), options, other or {})
    processes = [FORK.Process(target=one_rank, args=(number, count, *shared)) for number in range(count)]
    for process in processes:
        process.start()
    said = [results.get(timeout=120) for _ in range(count - (dies_at is not None))]
    for process in processes:
        process.join()
    return {number: (code, text) for number, code, text in said}


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "calibration"
    calibrate_into(out, folder)
    return files(out)


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_ranks_gives_the_bytes_of_one_process(alone, folder, tmp_path, count):
    said = by_ranks(count, tmp_path / "calibration", folder)
    assert said == dict.fromkeys(range(count), (0, ""))
    assert files(tmp_path / "calibration") == alone
    assert list(tmp_path.iterdir()) == [tmp_path / "calibration"]


def test_a_dead_rank_ends_the_run_in_words_and_it_resumes(alone, folder, tmp_path):
    out = tmp_path / "calibration"
    said = by_ranks(3, out, folder, dies_at=3)
    assert said.keys() == {0, 2}
    for code, text in said.values():
        assert code == ExitCode.INCOMPLETE
        assert "another rank of this calibration has ended" in text
        assert "--resume" in text
    assert not out.exists()
    assert partial_directory(out).exists()
    assert by_ranks(2, out, folder, resume=True) == dict.fromkeys(range(2), (0, ""))
    assert files(out) == alone


class StopHereError(Exception):
    pass


def stop_behind_a_layer(progress):
    if progress.done >= SAMPLES // 2:
        raise StopHereError


def test_one_process_and_ranks_resume_each_other(alone, folder, tmp_path):
    """A rank has the files of its own samples, between two layers as well."""
    out = tmp_path / "calibration"
    with pytest.raises(StopHereError):
        calibrate_into(out, folder, progress=stop_behind_a_layer)
    said = by_ranks(2, out, folder, dies_at=4, resume=True, progress=lambda progress: None)
    assert said[0][0] == ExitCode.INCOMPLETE
    calibrate_into(out, folder, resume=True)
    assert files(out) == alone


def test_weights_are_rounded_by_rank_0(folder, tmp_path):
    recipe = load_recipe("quamba2").rounded_by({"kind": "gptq"})
    calibrate_into(tmp_path / "alone", folder, recipe=recipe)
    assert by_ranks(2, tmp_path / "ranks", folder, recipe=recipe) == dict.fromkeys(range(2), (0, ""))
    assert files(tmp_path / "ranks") == files(tmp_path / "alone")


def test_an_error_on_one_rank_is_raised_on_all(folder, tmp_path):
    said = by_ranks(2, tmp_path / "out", folder, workers=2)
    assert {code for code, _ in said.values()} == {ExitCode.USAGE}
    assert "--nproc-per-node" in said[0][1]


def test_ranks_of_different_calibrations_are_refused_before_any_work(folder, tmp_path):
    """What one host has in its file and another has not would be in the scales, and nobody would know."""
    said = by_ranks(3, tmp_path / "out", folder, other={"seed": 7})
    assert {code for code, _ in said.values()} == {ExitCode.INVALID_INPUT}
    assert all("rank 1 has another calibration text than rank 0" in text for _, text in said.values())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_under_torchrun(tmp_path):
    """torchrun's own environment; rank 0 alone prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "quamba_export.exporter.cli", "calibrate", str(EMBEDDED / "mamba2-kjv")]
    command += ["--data", str(EMBEDDED / "calibration.txt"), "--calib-size", "8", "--calib-seqlen", "16"]
    done = subprocess.run([*command, "-o", str(tmp_path / "out"), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["samples"] == 8
    assert (tmp_path / "out" / "scales.safetensors").exists()
