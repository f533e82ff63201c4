"""The tokenizer beside the weights, and which token ends a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from random_checkpoints import MAMBA1, random_tensors, write_mamba_ssm
from refusals import refused
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from quamba_export.calib.checkpoints.checkpoint import load_checkpoint


def with_tokenizer(directory: Path, words: int = 64, special: tuple[str, ...] = ()) -> Path:
    """A checkpoint of 64 rows with a tokenizer of `words` words, `special` tokens added behind them."""
    write_mamba_ssm(directory, MAMBA1, random_tensors(MAMBA1))
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def add_json(directory: Path, name: str, **keys: object) -> None:
    file = directory / name
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | keys))


@pytest.mark.parametrize("token", ["<|endoftext|>", "</s>"])
def test_the_tokenizer_names_the_end_of_text(token: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(with_tokenizer(tmp_path, 40, (token,)))
    assert checkpoint.tokenizer_path == tmp_path / "tokenizer.json"
    assert checkpoint.eos_token_id == 40


def test_the_configs_come_before_the_tokenizer(tmp_path: Path) -> None:
    directory = with_tokenizer(tmp_path, 40, ("</s>",))
    add_json(directory, "config.json", eos_token_id=7)
    assert load_checkpoint(directory).eos_token_id == 7
    add_json(directory, "generation_config.json", eos_token_id=[9, 7])
    assert load_checkpoint(directory).eos_token_id == 9
    add_json(directory, "generation_config.json", eos_token_id=None)
    assert load_checkpoint(directory).eos_token_id == 7


def test_no_token_ends_a_text(tmp_path: Path) -> None:
    with refused("does not say which token ends a text", "none of <|endoftext|>", "eos_token_id"):
        load_checkpoint(with_tokenizer(tmp_path))


@pytest.mark.parametrize("value", [64, -1, "0", [], [64], True])
def test_absurd_end_of_text(value: object, tmp_path: Path) -> None:
    directory = with_tokenizer(tmp_path)
    add_json(directory, "config.json", eos_token_id=value)
    with refused("config.json: key 'eos_token_id' is not usable", "allowed: an integer from 0 to 63"):
        load_checkpoint(directory)


@pytest.mark.parametrize(("words", "special"), [(65, ()), (64, ("</s>",))])
def test_tokenizer_larger_than_the_vocabulary(words: int, special: tuple[str, ...], tmp_path: Path) -> None:
    with refused("tokenizer.json is larger than the model's", "token ids up to 64", "allowed: ids below 64"):
        load_checkpoint(with_tokenizer(tmp_path, words, special))


@pytest.mark.parametrize("keep", [0, 100])
def test_truncated_tokenizer(keep: int, tmp_path: Path) -> None:
    file = with_tokenizer(tmp_path) / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:keep])
    with refused("tokenizer.json is no tokenizer", "fix: fetch the file again"):
        load_checkpoint(tmp_path)
