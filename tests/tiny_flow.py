"""A tiny Mamba taken through calibrate, export and build by the commands themselves."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_checkpoints import MAMBA1, MAMBA2_GROUPS, random_tensors, write_mamba_ssm
from tokenizers import Tokenizer, models, pre_tokenizers

from quamba_export.calib.config import MambaConfig
from quamba_export.exporter import cli

CONFIGS = {"mamba1": MAMBA1, "mamba2": MAMBA2_GROUPS}
WORDS = [f"w{k}" for k in range(1, 64)]


@dataclass(frozen=True)
class Flow:
    """Folders of one tiny model, and a text it can read."""

    checkpoint: Path
    calibration: Path
    export: Path
    bundle: Path
    text: Path


def run_json(*arguments: object, exit_code: int = 0) -> dict[str, Any]:
    """One command in this process: its JSON object, or {} where it is to leave with another code than 0."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["quamba-export", *map(str, arguments), "--json"])
        patch.setattr(sys, "stdout", printed)
        with pytest.raises(SystemExit) as leaving:
            cli.main()
    assert (leaving.value.code or 0) == exit_code
    return dict(json.loads(printed.getvalue() or "{}"))


def run_flow(folder: Path, kind: str) -> Flow:
    """All folders of a random model of `kind`."""
    made = Flow(*(folder / name for name in ("checkpoint", "calibration", "export", "bundle", "text.txt")))
    write_tiny_checkpoint(made.checkpoint, CONFIGS[kind])
    write_words(made.text)
    size = ("--calib-size", 4, "--calib_seqlen", 32)
    run_json("calibrate", made.checkpoint, "--data", made.text, "-o", made.calibration, *size)
    run_json("export", made.checkpoint, "--calibration", made.calibration, "-o", made.export)
    run_json("build", made.export, "--target", "cpu", "-o", made.bundle)
    return made


def write_tiny_checkpoint(folder: Path, config: MambaConfig) -> None:
    """A random model with a tokenizer of 64 words."""
    write_mamba_ssm(folder, config, random_tensors(config))
    write_word_tokenizer(folder / "tokenizer.json")


def write_words(path: Path) -> None:
    """A text of 8 documents of 40 random words."""
    words = np.random.default_rng(0).choice(WORDS, size=(8, 40))
    path.write_text("\0".join(" ".join(line) for line in words))


def write_word_tokenizer(path: Path) -> None:
    """64 tokens: the end of text, and the words w1 to w63."""
    vocabulary = {"<eos>": 0} | {word: k for k, word in enumerate(WORDS, start=1)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(path))
