"""Cloze accuracy: which passages a text gives, and models whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_records import engine_record
from numpy.typing import NDArray
from tiny_flow import WORDS, Flow, run_json, write_word_tokenizer

from quamba_export.exporter.evaluation.cloze import MOST_WORDS, Passage, cloze, cut_passages, read_passages
from quamba_export.exporter.evaluation.evaluate import evaluate
from quamba_export.exporter.evaluation.language_models import Forward, LanguageModel, open_language_model
from quamba_export.runtime.bundle import open_model
from quamba_export.runtime.errors import QuambaError

ROOT = Path(__file__).parents[2]
TEXT = ("--data", ROOT / "embedded" / "validation.txt", "--window", 16, "--max-tokens", 32)
FILLER = "so it went on and on for all of that day " * 4  # 44 words


def cut(*documents: str) -> list[str]:
    return [passage.word for passage in cut_passages(documents)]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("they all met the king.", []),  # not in the passage
        ("the king met the king.", [" king"]),
        ('the king said "king!"', [" king"]),  # closing quotation mark, and an opening one with the word
        ("the king met the king", []),  # no end of a sentence
        ("it was so.", []),  # too short a word
        ("king 12. met the king.", [" king"]),
    ],
)
def test_a_passage_ends_in_a_word_that_it_has(end: str, words: list[str]) -> None:
    assert cut(FILLER + end) == ([] if '"king' in end else words)


def test_passages_follow_each_other_and_never_cross_documents() -> None:
    text = f"{FILLER}a king is a king. "
    assert cut(text + text, text) == [" king"] * 3
    first, second = list(cut_passages([text + text]))
    assert (first.context, second.context) == (text[:-6].rstrip(), text[:-6].rstrip())
    assert cut("king " * 20, f"{'word ' * 20}king.") == []


def test_after_too_many_words_a_new_passage_begins() -> None:
    found = list(cut_passages([f"king {'word ' * MOST_WORDS}{'word ' * 60}king."]))
    assert found == []  # the king is in the passage before
    assert cut(f"{'word ' * MOST_WORDS}{FILLER} a king is a king.") == [" king"]


def test_text_without_a_passage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Short.")
    with pytest.raises(QuambaError, match="has no passage"):
        read_passages(tmp_path / "text.txt", 4)


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_a_model_that_repeats_a_word_is_right_where_it_is_the_last(tmp_path: Path, mode: Any) -> None:
    write_word_tokenizer(tmp_path / "tokenizer.json")

    def always_w5(
        ids: NDArray[np.int64], states: Any, num_logits: int | None = None, /
    ) -> tuple[NDArray[np.float32], Any]:
        logits = np.zeros((len(ids), num_logits or ids.shape[1], 64), np.float32)
        logits[..., 5] = 1
        return logits, states

    model = model_of(always_w5, tmp_path / "tokenizer.json")
    passages = [Passage("w1 w2", " w5"), Passage("w1", " w5"), Passage("w5 w5 w3", " w4")]
    result = cloze(model, passages, mode)
    assert (result.passages, result.correct, result.accuracy) == (3, 2, pytest.approx(2 / 3))


def model_of(forward: Forward, tokenizer: Path) -> LanguageModel:
    return LanguageModel("fake", "checkpoint", "fp32", "float32", 64, 0, tokenizer, "PyTorch", forward)


def test_only_the_logits_of_last_words_are_asked_for(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """On TensorRT each is a call."""
    manifest, engine = open_model(flow.bundle)
    monkeypatch.setattr("quamba_export.runtime.bundle.open_model", lambda path, provider: (manifest, engine))
    run, counts = engine.run, list[int]()
    monkeypatch.setattr(
        engine, "run", lambda *call, num_logits: counts.append(num_logits) or run(*call, num_logits)
    )
    passages = [Passage(" ".join(WORDS[:9]), f" {WORDS[3]}"), Passage(" ".join(WORDS[:7]), f" {WORDS[4]}")]
    cloze(open_language_model(str(flow.bundle)), passages)
    assert counts == [4]  # of 10 tokens: behind the 7 of the shorter context and on


def test_reference_export_and_bundle_find_the_same_last_words(flow: Flow) -> None:
    """Half of the words are those that the quantized reference holds for likeliest, half are not."""
    reference = open_language_model(str(flow.checkpoint), calibration=flow.calibration)
    draws = np.random.default_rng(3).integers(1, 64, size=(8, 12))
    likeliest = reference.forward(draws, None)[0][:, -1].argmax(-1)
    answers = np.where(np.arange(8) % 2, likeliest, likeliest % 63 + 1)
    passages = [
        Passage(" ".join(WORDS[k - 1] for k in row), f" {WORDS[answer - 1]}")
        for row, answer in zip(draws, answers, strict=True)
    ]
    assert cloze(reference, passages).correct == 4
    assert cloze(open_language_model(str(flow.export)), passages).correct == 4
    assert cloze(open_language_model(str(flow.bundle)), passages, "decode").correct == 4


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_a_bundle_is_scored_in_batches_that_its_engine_takes(
    flow: Flow, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """evaluate takes up to 64 windows a call, cloze and tasks up to 32 rows: more than most engines do."""
    manifest, engine = open_model(flow.bundle)
    opened = replace(manifest, engine=engine_record(max_batch=3)), engine
    monkeypatch.setattr("quamba_export.runtime.bundle.open_model", lambda path, provider: opened)
    model, zero_states, sizes = open_language_model(str(flow.bundle)), engine.zero_states, list[int]()
    monkeypatch.setattr(engine, "zero_states", lambda batch: sizes.append(batch) or zero_states(batch))
    stream = np.random.default_rng(4).integers(1, 64, 40)
    evaluate(model, stream, window=8, mode=mode)
    evaluate(replace(model, max_batch=9), stream, window=8, mode=mode, against=model)
    assert cloze(model, [Passage("w1 w2", " w3")] * 5, mode).passages == 5
    own = [3, 2]
    assert sizes == [*own, *[size for size in own for _ in range(2)], *own]


def test_eval_reports_last_words_where_they_are_asked_for() -> None:
    facts = run_json("eval", ROOT / "embedded" / "mamba1-kjv", *TEXT, "--cloze", 6)
    assert facts["cloze_passages"] == 6
    assert facts["cloze_accuracy"] * 6 == pytest.approx(round(facts["cloze_accuracy"] * 6))
    assert facts["cloze_accuracy"] > 0
    assert "against_cloze_accuracy" not in facts
