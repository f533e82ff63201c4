"""`run` with states in files: a text put aside and taken up again, forked, and a prefix computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_flow import Flow, run_json

from quamba_export.runtime.errors import ExitCode

NEW = ("--max-new-tokens", 6)


def run(flow: Flow, *flags: object, exit_code: int = 0) -> dict[str, Any]:
    return run_json("run", flow.bundle, "--threads", 1, *flags, exit_code=exit_code)


@pytest.fixture
def saved(flow: Flow, tmp_path: Path) -> Path:
    run(flow, "--prompt", "w3 w4 w5", *NEW, "--save-state", tmp_path / "half")
    return tmp_path / "half"


def test_a_text_goes_on_as_if_it_had_not_been_put_aside(flow: Flow, saved: Path, tmp_path: Path) -> None:
    """Token for token, and the states at the end bit for bit: the same file."""
    long = ("--max-new-tokens", 12, "--save-state")
    whole = run(flow, "--prompt", "w3 w4 w5", *long, tmp_path / "whole")
    rest = run(flow, "--load-state", saved, *NEW, "--save-state", tmp_path / "rest", "--marks", 0)
    assert len(rest["token_ids"]) == 6
    assert rest["token_ids"] == whole["token_ids"][6:]
    assert rest["tokens_before"] + rest["prompt_tokens"] == 3 + 6
    assert (tmp_path / "rest").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_penalty_remembers_what_was_said_before_the_break(flow: Flow, tmp_path: Path) -> None:
    flags = ("--prompt", "w3 w4 w5", "--repetition-penalty", 100)
    whole = run(flow, *flags, "--max-new-tokens", 12)
    run(flow, *flags, *NEW, "--save-state", tmp_path / "half")
    rest = run(flow, "--load-state", tmp_path / "half", "--repetition-penalty", 100, *NEW)
    assert rest["token_ids"] == whole["token_ids"][6:]
    assert rest["token_ids"] != run(flow, "--load-state", tmp_path / "half", *NEW)["token_ids"]
    ids = ("--prefix-file", tmp_path / "prefix", "--prompt-library", tmp_path / "library")
    (tmp_path / "prefix").write_text("w3 w4")
    by_library = run(flow, *ids, "--prompt", "w5", "--repetition-penalty", 100, "--max-new-tokens", 12)
    assert by_library["token_ids"] == whole["token_ids"]


def test_states_of_a_prompt_alone_are_saved_without_text(flow: Flow, tmp_path: Path) -> None:
    none = ("--max-new-tokens", 0, "--save-state")
    assert run(flow, "--prompt", "w3 w4 w5", *none, tmp_path / "a")["token_ids"] == []
    whole = run(flow, "--prompt", "w3 w4 w5 w6", *NEW)
    parts = run(flow, "--load-state", tmp_path / "a", "--prompt", "w6", *NEW)
    assert parts["token_ids"] == whole["token_ids"]
    run(flow, "--load-state", tmp_path / "a", "--prompt", "w6", *none, tmp_path / "b")
    run(flow, "--prompt", "w3 w4 w5 w6", *none, tmp_path / "c")
    b, c = load_file(tmp_path / "b"), load_file(tmp_path / "c")
    assert b.pop("feeds").tolist() != c.pop("feeds").tolist()  # in other pieces, to the same states
    assert b.pop("marks").tolist() == [2, 3] != c.pop("marks").tolist()
    for name in c:
        np.testing.assert_array_equal(b[name][-1:], c[name][-1:])


def test_one_file_is_continued_in_several_ways(flow: Flow, saved: Path) -> None:
    before = saved.read_bytes()
    first, other = (run(flow, "--load-state", saved, "--prompt", word, *NEW) for word in ("w7", "w8 w9"))
    assert first["token_ids"] == run(flow, "--load-state", saved, "--prompt", "w7", *NEW)["token_ids"]
    assert (first["tokens_before"], other["tokens_before"]) == (8, 8)
    assert saved.read_bytes() == before


@pytest.mark.parametrize("marks", [0, 1])
def test_a_rewound_text_is_one_that_never_went_further(flow: Flow, tmp_path: Path, marks: int) -> None:
    """To within the second run and to within the first: token for token, and the same file."""
    one, two, back = tmp_path / "one", tmp_path / "two", tmp_path / "back"
    none, end = ("--marks", 0, "--save-state"), ("--max-new-tokens", 0)
    run(flow, "--prompt", "w3 w4 w5", "--max-new-tokens", 4, "--save-state", one)
    more = run(flow, "--load-state", one, "--prompt", "w6", *NEW, "--marks", marks, "--save-state", two)
    fewer = run(flow, "--load-state", one, "--prompt", "w6", "--max-new-tokens", 3, *none, tmp_path / "fewer")
    assert run(flow, "--load-state", two, "--rewind", 3, *end, *none, back)["tokens_before"] == 10
    assert back.read_bytes() == (tmp_path / "fewer").read_bytes()
    rest = run(flow, "--load-state", two, "--rewind", 3, "--max-new-tokens", 3)
    assert [*fewer["token_ids"], *rest["token_ids"]] == more["token_ids"]
    run(flow, "--prompt", "w3 w4 w5", "--max-new-tokens", 2, *none, tmp_path / "fewer")
    run(flow, "--load-state", two, "--rewind", 9, *end, *none, back)
    assert back.read_bytes() == (tmp_path / "fewer").read_bytes()


def test_no_more_is_taken_back_than_there_is(flow: Flow, saved: Path) -> None:
    for flags in (("--rewind", 9), ("--rewind", -1), ("--marks", 65), ("--marks", -1)):
        run(flow, "--load-state", saved, *flags, *NEW, exit_code=ExitCode.USAGE)
    run(flow, "--prompt", "w3", "--rewind", 1, exit_code=ExitCode.USAGE)


def test_export_and_bundle_share_states(flow: Flow, saved: Path) -> None:
    rest = run_json("run", flow.export, "--threads", 1, "--load-state", saved, *NEW)
    assert rest["token_ids"] == run(flow, "--load-state", saved, *NEW)["token_ids"]


def test_a_library_computes_a_prefix_once(flow: Flow, tmp_path: Path) -> None:
    library, prefix = tmp_path / "library", tmp_path / "prefix.txt"
    prefix.write_text("w3 w4 w5 w6 w7")
    flags = ("--prefix-file", prefix, "--prompt-library", library, "--prompt", "w8", *NEW)
    whole = run(flow, "--prompt", "w3 w4 w5 w6 w7 w8", *NEW)
    computed = run(flow, *flags)
    (file,) = library.iterdir()
    written = file.stat().st_mtime_ns
    read = run(flow, *flags)
    assert computed["token_ids"] == read["token_ids"] == whole["token_ids"]
    assert read["tokens_before"] == 4
    assert [path.stat().st_mtime_ns for path in library.iterdir()] == [written]
    prefix.write_text("w3 w4")
    run(flow, *flags)
    assert len(list(library.iterdir())) == 2
    other = next(path for path in library.iterdir() if path != file)
    file.write_bytes(other.read_bytes())  # states of other tokens under this prefix's name
    prefix.write_text("w3 w4 w5 w6 w7")
    run(flow, *flags, exit_code=ExitCode.INTEGRITY)


def test_what_cannot_be_continued_is_refused(
    flow: Flow, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut").write_bytes(saved.read_bytes()[:-1])
    run(flow, "--load-state", tmp_path / "cut", exit_code=ExitCode.INTEGRITY)
    run(flow, "--prompt", "w3", "--save-state", flow.bundle / "states", exit_code=ExitCode.USAGE)
    run(flow, "--prompt", "w3", "--prefix-file", saved, exit_code=ExitCode.USAGE)
    run(flow, "--prompt", "w3", "--save-state", tmp_path / ("n" * 300), exit_code=ExitCode.INVALID_INPUT)
    assert not (flow.bundle / "states").exists()
    printed = capsys.readouterr().err
    for part in ("has changed since it was saved", "in a bundle", "one text or"):
        assert part in printed
