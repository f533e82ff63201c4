import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from calib_runs import LENGTH, SAMPLES, calibrate_random, files
from random_checkpoints import MAMBA1, MAMBA2

from quamba_export.calib.calibrate import calibrate, partial_directory
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.runtime.errors import QuambaError

LAYER = SAMPLES // 2  # what counts as done when all samples are through one of two layers
TESTS = Path(__file__).parents[1]


@pytest.fixture
def run(folder):
    return partial(calibrate_random, folder)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from random_checkpoints import MAMBA2, random_checkpoint
from quamba_export.calib.calibrate import calibrate

def report(progress):
    if progress.done >= {at}:
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path({folder!r})
checkpoint = random_checkpoint(MAMBA2, 0, folder / "tokenizer.json")
calibrate(checkpoint, folder / "text.txt", calib_size={samples}, calib_seqlen={length}, out_dir={out!r},
          progress=report)
"""


def test_a_killed_run_resumes_to_the_same_bytes(run, folder, tmp_path):
    out, at = tmp_path / "killed", SAMPLES + SAMPLES // 2  # behind the first layer of the second stage
    names = {"tests": str(TESTS), "folder": str(folder), "out": str(out)}
    script = KILLED.format(at=at, samples=SAMPLES, length=LENGTH, **names)
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert partial_directory(out).is_dir()
    assert not out.exists()
    seen = []
    run(MAMBA2, out_dir=out, resume=True, progress=seen.append)
    run(MAMBA2, out_dir=tmp_path / "whole")
    assert seen[0].done > at  # it went on, and did not start again
    assert files(out) == files(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "whole"]


class StopHereError(Exception):
    pass


def stop_after(done):
    def stop(progress):
        if progress.done >= done:
            raise StopHereError

    return stop


@pytest.mark.parametrize(
    ("config", "at"),
    [(MAMBA1, LAYER), (MAMBA2, LAYER), (MAMBA2, SAMPLES), (MAMBA2, SAMPLES + LAYER), (MAMBA2, 2 * SAMPLES)],
    ids=["mamba1", "channels", "behind channels", "scales", "errors"],
)
def test_resuming_at_any_place_gives_the_same_bytes(run, tmp_path, config, at):
    out, seen = tmp_path / "stopped", []
    for _ in range(2):  # stopped behind a layer, then in the next one
        with pytest.raises(StopHereError):
            run(config, out_dir=out, resume=True, progress=stop_after(at))
    run(config, out_dir=out, resume=True, progress=seen.append)
    run(config, out_dir=tmp_path / "whole")
    assert seen[0].done > at
    assert files(out) == files(tmp_path / "whole")


def test_a_run_that_was_killed_while_it_cleared_up_is_no_unfinished_one(run, tmp_path, monkeypatch):
    out, removed = tmp_path / "out", shutil.rmtree

    def in_the_middle(folder, *rest, **options):
        if Path(folder) == partial_directory(out):
            (Path(folder) / "weights0.safetensors").unlink()
            raise StopHereError
        removed(folder, *rest, **options)

    recipe = load_recipe("quamba").rounded_by({"kind": "gptq"})
    run(MAMBA1, out_dir=tmp_path / "whole", recipe=recipe)
    monkeypatch.setattr(shutil, "rmtree", in_the_middle)
    with pytest.raises(StopHereError):
        run(MAMBA1, out_dir=out, recipe=recipe)
    monkeypatch.undo()
    run(MAMBA1, out_dir=out, recipe=recipe, resume=True)
    assert files(out) == files(tmp_path / "whole")


@pytest.fixture
def interrupted(run, tmp_path):
    """The output directory of a run of MAMBA1 that stopped behind its first layer."""
    with pytest.raises(StopHereError):
        run(MAMBA1, out_dir=tmp_path / "out", progress=stop_after(LAYER))
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"weights": 1}, "checkpoint"),
        ({"calib_size": SAMPLES - 1}, "number of samples"),
        ({"calib_seqlen": LENGTH - 1}, "number of tokens a sample"),
        ({"data": "other"}, "calibration text"),
        ({"recipe": load_recipe("quamba-1b")}, "recipe"),
    ],
)
def test_resuming_another_run_is_refused_in_words(run, folder, interrupted, tmp_path, changed, name):
    if changed.get("data"):
        other = tmp_path / "other.txt"
        other.write_text("w3 " + (folder / "text.txt").read_text())
        changed = {"data": other}
    with pytest.raises(QuambaError, match=f"cannot resume.*has another {name}\n"):
        run(MAMBA1, out_dir=interrupted, resume=True, **changed)
    assert partial_directory(interrupted).is_dir()


def test_progress_in_another_unit_is_refused(run, tmp_path, monkeypatch):
    """Work that was counted in samples through the whole model would look like one layer's."""
    module = sys.modules[calibrate.__module__]
    known = module._identity

    def earlier(*run):
        return {name: value for name, value in known(*run).items() if name != "unit of progress"}

    monkeypatch.setattr(module, "_identity", earlier)
    with pytest.raises(StopHereError):
        run(MAMBA1, out_dir=tmp_path / "out", progress=stop_after(LAYER))
    monkeypatch.undo()
    with pytest.raises(QuambaError, match=r"cannot resume.*has another unit of progress\n"):
        run(MAMBA1, out_dir=tmp_path / "out", resume=True)


def test_without_resume_a_run_starts_anew(run, interrupted):
    seen = []
    run(MAMBA1, weights=1, out_dir=interrupted, progress=seen.append)
    assert [progress.done for progress in seen] == [2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20]
    assert not partial_directory(interrupted).exists()


def test_a_garbled_progress_file_is_refused(run, interrupted):
    (partial_directory(interrupted) / "progress.safetensors").write_bytes(b"garbage")
    with pytest.raises(QuambaError, match=r"(?s)cannot be read.*without --resume"):
        run(MAMBA1, out_dir=interrupted, resume=True)
