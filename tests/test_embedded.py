"""The checkpoints and texts in embedded/: loadable, small, good enough, honestly split; and their script."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.data import read_documents, token_stream
from quamba_export.calib.model.float_model import FloatMamba

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
TRAIN = EMBEDDED / "train.py"
DIRECTORIES = {"mamba1": EMBEDDED / "mamba1-kjv", "mamba2": EMBEDDED / "mamba2-kjv"}
MEGABYTE = 1_000_000


@pytest.mark.parametrize("kind", DIRECTORIES)
def test_checkpoint_scores_below_two_bits_a_byte(kind: str) -> None:
    checkpoint = load_checkpoint(DIRECTORIES[kind])
    assert (checkpoint.config.kind, checkpoint.eos_token_id) == (kind, 0)
    assert checkpoint.tokenizer_path is not None
    stream = token_stream(EMBEDDED / "validation.txt", checkpoint.tokenizer_path, 0, limit=4 * 512 + 1)
    inputs, targets = torch.from_numpy(stream[:-1]).view(4, 512), torch.from_numpy(stream[1:])
    with torch.no_grad():
        logits, _ = FloatMamba.from_checkpoint(checkpoint)(inputs)
    bits = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").item() / math.log(2)
    text = Tokenizer.from_file(str(checkpoint.tokenizer_path)).decode(targets.tolist())
    assert bits / len(text.encode()) <= 1.35  # the issue allows 2.0; all of validation.txt: see training.json


def test_training_records_meet_the_bound() -> None:
    for kind, directory in DIRECTORIES.items():
        record = json.loads((directory / "training.json").read_text())
        assert record["kind"] == kind
        assert record["validation_bits_a_byte"] <= 2.0


def test_hugging_face_reads_the_mamba1_directory() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(DIRECTORIES["mamba1"], dtype=torch.float32)
    tokens = torch.arange(0, 1024, 17)[None]  # (1, L)
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
        logits, _ = FloatMamba.from_checkpoint(load_checkpoint(DIRECTORIES["mamba1"]))(tokens)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-3)


def test_files_are_small() -> None:
    checkpoints = [path for directory in DIRECTORIES.values() for path in directory.iterdir()]
    assert sum(path.stat().st_size for path in checkpoints) <= 5.5 * MEGABYTE
    assert sum(path.stat().st_size for path in EMBEDDED.glob("*.txt")) <= 0.8 * MEGABYTE


def test_both_models_share_one_tokenizer_that_reads_any_text() -> None:
    files = [directory / "tokenizer.json" for directory in DIRECTORIES.values()]
    assert files[0].read_bytes() == files[1].read_bytes()
    tokenizer = Tokenizer.from_file(str(files[0]))
    assert (tokenizer.get_vocab_size(), tokenizer.token_to_id("<|endoftext|>")) == (1024, 0)
    text = "And God said, Let there be light.\n\tπ ≈ 3.14 — 光"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_calibration_and_validation_share_no_chapter() -> None:
    calibration = list(read_documents(EMBEDDED / "calibration.txt"))
    validation = list(read_documents(EMBEDDED / "validation.txt"))
    assert (len(calibration), len(validation)) == (119, 59)  # of 1189 chapters: every tenth, every twentieth
    assert not set(calibration) & set(validation)


def run_train(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TRAIN, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def small_book(tmp_path: Path) -> Path:
    """40 chapters of 4 verses, so that every split has one."""
    verses = [f"Ge{c}:{v} And chapter {c} begat verse {v}." for c in range(1, 41) for v in range(1, 5)]
    path = tmp_path / "book.txt"
    path.write_text("\n".join(verses))
    return path


def test_script_trains_what_it_then_evaluates(small_book: Path, tmp_path: Path) -> None:
    size = ("--steps", 2, "--batch", 1, "--length", 16)
    trained = run_train(small_book, tmp_path / "out", "--kind", "mamba2", *size)
    assert trained.returncode == 0, trained.stderr
    directory = tmp_path / "out" / "mamba2-kjv"
    assert json.loads((directory / "training.json").read_text())["curve"][-1]["step"] == 2
    assert len(list(read_documents(tmp_path / "out" / "validation.txt"))) == 2

    evaluated = run_train("--evaluate", directory)
    assert evaluated.returncode == 0, evaluated.stderr
    assert trained.stdout.splitlines()[-1].split()[1] == evaluated.stdout.split()[1]


def test_script_names_the_line_that_is_no_verse(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("Ge1:1 In the beginning\n\nGenesis 1\n")
    refused = run_train(text, tmp_path / "out")
    assert refused.returncode == 3
    assert f"{text}, line 2 is not a verse" in refused.stderr
    assert "bible -f" in refused.stderr
