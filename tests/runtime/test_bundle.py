"""Opening a bundle: verified first, then tokenizer and engine; and text in, text out."""

import json
from pathlib import Path

import pytest
from tiny_recurrent import EOS, V, byte_level_tokenizer, write_tiny_export
from tokenizers import AddedToken

from quamba_export.runtime.bundle import Bundle, open_bundle
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.generate import Limits
from quamba_export.runtime.manifest import files_of, manifest_for, read_manifest, write_manifest


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_tiny_export(tmp_path / "export", "float16")


@pytest.fixture
def opened(export: Path) -> Bundle:
    return open_bundle(export, threads=1)


def update_files(folder: Path) -> None:
    record = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps(record | {"files": files_of(folder)}))


def test_an_export_and_a_bundle_of_it_say_the_same(export: Path, tmp_path: Path) -> None:
    limits = Limits(24, eos_token_id=EOS)
    first = open_bundle(export, threads=1).generate(["the a"], limits)[0]
    source = read_manifest(export)
    (export / "export.json").unlink()
    write_manifest(manifest_for(export, source, target="cpu", backend="onnxruntime", producer="test"), export)
    second = open_bundle(export, threads=1).generate(["the a"], limits)[0]
    assert first.token_ids == second.token_ids
    assert first.text == second.text


def test_streamed_pieces_join_to_the_generated_text(opened: Bundle) -> None:
    limits = Limits(40)
    pieces = list(opened.stream(["a", "the"], limits))
    for row, generation in enumerate(opened.generate(["a", "the"], limits)):
        assert "".join(piece.text for piece in pieces if piece.row == row) == generation.text
        assert generation.text == opened.tokenizer.decode(list(generation.token_ids))


def test_an_empty_prompt_starts_after_the_end_of_text_token(opened: Bundle) -> None:
    assert opened.encode("") == [EOS]
    (empty,) = opened.generate([""], Limits(5))
    (explicit,) = opened.generate(["<|endoftext|>"], Limits(5))
    assert empty.token_ids == explicit.token_ids
    assert empty.prompt_tokens == 1


def test_a_prompt_that_is_no_unicode_is_refused(opened: Bundle) -> None:
    with pytest.raises(QuambaError, match="Unicode"):
        opened.encode("bad \udcff byte")


def test_this_host_needs_no_warning_or_names_itself(opened: Bundle) -> None:
    assert all("int8 products" in warning for warning in opened.warnings)


def test_nothing_is_parsed_in_a_changed_bundle(export: Path) -> None:
    (export / "tokenizer.json").write_text("not even JSON")
    with pytest.raises(QuambaError, match="has changed") as caught:
        open_bundle(export)
    assert caught.value.code is ExitCode.INTEGRITY


def test_an_export_without_a_tokenizer_says_so(export: Path) -> None:
    (export / "tokenizer.json").unlink()
    update_files(export)
    with pytest.raises(QuambaError, match="has no tokenizer"):
        open_bundle(export)


@pytest.mark.parametrize("content", ["{}", "[", '{"version": "1.0"}'])
def test_a_tokenizer_that_is_none_is_refused(export: Path, content: str) -> None:
    (export / "tokenizer.json").write_text(content)
    update_files(export)
    with pytest.raises(QuambaError, match=r"tokenizer\.json is no tokenizer"):
        open_bundle(export)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(export: Path) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<|extra|>", special=True)])
    tokenizer.save(str(export / "tokenizer.json"))
    update_files(export)
    with pytest.raises(QuambaError, match="another model") as caught:
        open_bundle(export)
    assert (caught.value.found, caught.value.allowed) == (f"token id {V}", f"0 to {V - 1}")


def test_a_tokenizer_that_truncates_or_pads_does_neither_here(export: Path) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(export / "tokenizer.json"))
    update_files(export)
    assert len(open_bundle(export).encode("bbbbbbbb")) == 8
