"""The directory of unfinished work belongs to one calibration at a time."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from random_checkpoints import MAMBA1, random_checkpoint
from refusals import refused
from tokenizers import Tokenizer, models, pre_tokenizers

from quamba_export.calib.calibrate import calibrate, partial_directory
from quamba_export.calib.progress_file import ProgressFile, locked
from quamba_export.calib.recipes.recipe import load_recipe

HELD = """
import sys
from pathlib import Path
from quamba_export.calib.progress_file import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_calibration_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("w1 w2 w3 w4")
    checkpoint = random_checkpoint(MAMBA1, tokenizer_path=tmp_path / "tokenizer.json")

    with locked(partial_directory(tmp_path / "out")), refused("another calibration is at work", "-o"):
        calibrate(checkpoint, tmp_path / "text.txt", calib_size=1, calib_seqlen=4, out_dir=tmp_path / "out")
    calibrate(checkpoint, tmp_path / "text.txt", calib_size=1, calib_seqlen=4, out_dir=tmp_path / "out")
    assert (tmp_path / "out" / "calibration.json").is_file()
    assert not partial_directory(tmp_path / "out").exists()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_holds_nothing(tmp_path: Path, end: signal.Signals) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HELD, str(tmp_path / "work")], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with refused("another calibration is at work"), locked(tmp_path / "work"):
            pass
        process.send_signal(end)
        process.wait()
    with locked(tmp_path / "work") as directory:
        assert directory.is_dir()


def test_progress_of_another_model_of_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bits are those of one device: half the totals of another one would be neither's."""
    module = sys.modules[calibrate.__module__]
    told = random_checkpoint(MAMBA1), load_recipe("quamba"), np.zeros((4, 8), dtype=np.int64)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU A")
    identity = module._identity(*told, torch.device("cuda", 0))
    ProgressFile.start(tmp_path, identity, resume=False).save()
    ProgressFile.start(tmp_path, identity, resume=True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU B")
    with refused("cannot resume", "has another model of GPU", "GPU A"):
        ProgressFile.start(tmp_path, module._identity(*told, torch.device("cuda", 0)), resume=True)
    assert "model of GPU" not in module._identity(*told, torch.device("cpu"))
