import json
import sys
import types

import huggingface_hub
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from quamba_export.calib.data import calibration_windows, data_digest, read_documents, token_stream, windows
from quamba_export.runtime.errors import QuambaError

EOS = 0
WORDS = ["<eos>", "a", "b", "c", "d", "e", "f"]


@pytest.fixture
def tokenizer_path(tmp_path):
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_documents_are_split_on_nul_where_there_is_one(tmp_path):
    assert list(read_documents(write(tmp_path, "t.txt", "a\n\nb\0c\0"))) == ["a\n\nb", "c"]


def test_documents_are_split_on_blank_lines_where_there_is_no_nul(tmp_path):
    assert list(read_documents(write(tmp_path, "t.txt", "a\nb\n \n\nc\r\n\r\n"))) == ["a\nb", "c"]


def test_any_other_suffix_is_read_as_text(tmp_path):
    assert list(read_documents(write(tmp_path, "README.md", "a\n\nb"))) == ["a", "b"]


def test_jsonl_documents(tmp_path):
    lines = '{"text": "a b"}\n\n{"text": "", "id": 1}\n{"text": "c"}\n'
    assert list(read_documents(write(tmp_path, "t.jsonl", lines))) == ["a b", "c"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ('{"body": "x", "a": 1}', "keys a, body"),
        ("[1]", "no object"),
        ('{"text": 3}', ""),
    ],
)
def test_bad_jsonl_line_is_named(tmp_path, line, message):
    path = write(tmp_path, "t.jsonl", '{"text": "a"}\n' + line)
    with pytest.raises(QuambaError, match="line 2") as caught:
        list(read_documents(path))
    assert message in str(caught.value)


def test_text_that_is_not_utf8_is_refused_with_the_byte(tmp_path):
    with pytest.raises(QuambaError, match="byte 2 cannot be decoded"):
        list(read_documents(write(tmp_path, "t.txt", b"ab\xff")))


def test_missing_file_and_directory_are_refused(tmp_path):
    with pytest.raises(QuambaError, match="no such file"):
        read_documents(tmp_path / "missing.txt")
    with pytest.raises(QuambaError, match="a directory"):
        read_documents(tmp_path)


def fake_datasets(monkeypatch, load, info=lambda self, name, timeout: None):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", info)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


class Rows(list):
    column_names = ("text", "id")


@pytest.mark.parametrize(
    ("name", "config", "split"),
    [("o/n", None, "train"), ("o/n:test", None, "test"), ("o/n:raw:validation", "raw", "validation")],
)
def test_dataset_by_name_config_and_split(monkeypatch, name, config, split):
    calls = []

    def load(repository, chosen, split):
        calls.append((repository, chosen, split))
        return Rows([{"text": "a"}, {"text": " "}, {"text": "b"}])

    fake_datasets(monkeypatch, load)
    assert list(read_documents(name)) == ["a", "b"]
    assert calls == [("o/n", config, split)]


def test_unknown_dataset_and_dataset_without_text_are_refused(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("offline\nlong story")

    fake_datasets(monkeypatch, fail)
    with pytest.raises(QuambaError, match=r"ConnectionError: offline\n"):
        list(read_documents("o/n"))
    rows = Rows()
    rows.column_names = ("body",)
    fake_datasets(monkeypatch, lambda *_, **__: rows)
    with pytest.raises(QuambaError, match="found: body"):
        list(read_documents("o/n"))


@pytest.mark.parametrize(("reached", "offline"), [(False, True), (True, False)])
def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch, reached, offline):
    asked = []

    def info(self, name, timeout):
        asked.append(name)
        if not reached:
            raise OSError("Name or service not known")
        raise huggingface_hub.errors.RepositoryNotFoundError("no such dataset", response=None)

    def load(*_, **__):
        assert huggingface_hub.constants.HF_HUB_OFFLINE is offline  # else it would ask five times more
        raise FileNotFoundError("not in the cache")

    fake_datasets(monkeypatch, load, info)
    with pytest.raises(QuambaError, match="no Hugging Face dataset typo:test"):
        list(read_documents("typo:test"))
    assert asked == ["typo"]


def test_a_path_is_never_asked_of_the_hub_and_its_neighbour_is_named(tmp_path, monkeypatch):
    fake_datasets(monkeypatch, None, None)
    write(tmp_path, "validation.txt", "a")
    for name in ("validation", "validaton.txt", "./validation", "a/b/validation"):
        near = "" if name.startswith("a/") else f"did you mean {tmp_path / 'validation.txt'}?"
        with pytest.raises(QuambaError, match="no such file") as caught:
            read_documents(f"{tmp_path}/{name}")
        assert caught.value.fix == near


def test_missing_datasets_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(QuambaError, match=r"\[hub\]'"):
        list(read_documents("o/n"))


def test_stream_joins_documents_each_followed_by_the_end_of_text(tmp_path, tokenizer_path):
    stream = token_stream(write(tmp_path, "t.txt", "a b c\0d"), tokenizer_path, EOS)
    assert stream.dtype == np.int64
    assert stream.tolist() == [1, 2, 3, EOS, 4, EOS]  # the tokenizer's own truncation is off


def test_stream_stops_at_the_limit(tmp_path, tokenizer_path):
    path = write(tmp_path, "t.txt", "\0".join("a b c" for _ in range(500)))
    whole = token_stream(path, tokenizer_path, EOS)
    assert whole.size == 2000
    assert token_stream(path, tokenizer_path, EOS, limit=7).tolist() == whole[:7].tolist()


def test_stream_of_an_empty_text_is_empty(tmp_path, tokenizer_path):
    assert token_stream(write(tmp_path, "t.txt", "\n\n"), tokenizer_path, EOS).size == 0


def test_bad_tokenizer_is_refused(tmp_path):
    text = write(tmp_path, "t.txt", "a")
    with pytest.raises(QuambaError, match="no tokenizer"):
        token_stream(text, tmp_path / "tokenizer.json", EOS)
    with pytest.raises(QuambaError, match="is not a tokenizer"):
        token_stream(text, write(tmp_path, "bad.json", json.dumps({"model": 3})), EOS)


def test_windows_are_contiguous_and_drop_the_partial_one():
    stream = np.arange(11)
    assert windows(stream, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows(stream, 4, 1).tolist() == [[0, 1, 2, 3]]
    assert windows(stream, 12).shape == (0, 12)


def test_calibration_windows_are_the_first_ones_or_a_draw(tmp_path, tokenizer_path):
    text = write(tmp_path, "t.txt", " ".join("abcdef"[i % 6] for i in range(40)))
    first = calibration_windows(text, tokenizer_path, EOS, count=3, size=5)
    assert first.tolist() == [[1, 2, 3, 4, 5], [6, 1, 2, 3, 4], [5, 6, 1, 2, 3]]
    drawn = calibration_windows(text, tokenizer_path, EOS, count=3, size=5, seed=1)
    again = calibration_windows(text, tokenizer_path, EOS, count=3, size=5, seed=1)
    assert drawn.tolist() == again.tolist() != first.tolist()
    assert data_digest(drawn) == data_digest(again) != data_digest(first)
    assert data_digest(first) != data_digest(first.reshape(5, 3))


@pytest.mark.parametrize(
    ("text", "found", "fix"),
    [
        ("", 0, "fix: give a longer text"),
        ("a b c", 4, "fix: give a longer text, or --calib-seqlen 1"),
        ("a " * 9, 10, "--calib-size 2"),
    ],
)
def test_too_little_text_is_refused_with_both_numbers(tmp_path, tokenizer_path, text, found, fix):
    with pytest.raises(QuambaError, match="too little") as caught:
        calibration_windows(write(tmp_path, "t.txt", text), tokenizer_path, EOS, count=3, size=5)
    assert f"found: {found} tokens" in str(caught.value)
    assert "at least 15 tokens (3 samples of 5)" in str(caught.value)
    assert fix in str(caught.value)


@pytest.mark.parametrize(("count", "size", "flag"), [(0, 5, "--calib-size"), (1, 0, "--calib-seqlen")])
def test_sizes_must_be_positive(tmp_path, tokenizer_path, count, size, flag):
    with pytest.raises(QuambaError, match=flag):
        calibration_windows(write(tmp_path, "t.txt", "a"), tokenizer_path, EOS, count=count, size=size)
