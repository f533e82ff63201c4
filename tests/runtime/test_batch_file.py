"""Many prompts to one file, killed and taken up again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from served import SlowEngine, tiny_bundle

from quamba_export.runtime.batch_file import ResultFile, read_prompts, run_batch
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.generate import Limits
from quamba_export.runtime.sampling import Sampling

PROMPTS = [f"the {'a ' * (n % 3)}{n}" for n in range(11)]
LIMITS, SAMPLING, SETTINGS = Limits(9, eos_token_id=0), Sampling(0.9, seed=5), {"seed": 5}


class Killed(Exception):
    pass


def kill_after(finished: int) -> Callable[[int], None]:
    def advance(done: int) -> None:
        if done >= finished:
            raise Killed

    return advance


def run(out: Path, advance: Callable[[int], None] = lambda done: None, prompts: list[str] = PROMPTS) -> int:
    """One run; how many prompts it fed."""
    bundle = tiny_bundle()
    assert isinstance(bundle.engine, SlowEngine)
    with ResultFile(out, SETTINGS, prompts) as results:
        run_batch(bundle, prompts, results, LIMITS, SAMPLING, max_batch=3, advance=advance)
        results.finish()
    return sum(length > 1 for _, length in bundle.engine.calls)


def test_results_are_in_the_order_of_the_prompts_and_those_of_run(tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl")
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [result["prompt"] for result in results] == PROMPTS
    for index, result in enumerate(results):
        alone = tiny_bundle().generate([PROMPTS[index]], LIMITS, replace(SAMPLING, seed=5 + index))[0]
        assert (result["text"], result["new_tokens"]) == (alone.text, len(alone.token_ids))
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("finished", [1, 4, 10])
def test_a_killed_run_goes_on_with_what_is_missing(tmp_path: Path, finished: int) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert run(whole) == len(PROMPTS)
    with pytest.raises(Killed):
        run(out, kill_after(finished))
    part = tmp_path / "out.jsonl.part"
    kept = len(part.read_bytes().splitlines()) - 1
    assert kept >= finished
    part.write_bytes(part.read_bytes() + b'{"index": 7, "prom')  # killed in a line
    with pytest.raises(Killed):
        run(out, kill_after(kept + 1))
    assert not out.exists()
    assert run(out) == len(PROMPTS) - kept - 1
    assert out.read_bytes() == whole.read_bytes()
    assert not part.exists()


def test_a_part_of_other_prompts_or_settings_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(Killed):
        run(out, kill_after(2))
    for prompts, settings in ((PROMPTS[::-1], SETTINGS), (PROMPTS[:-1], SETTINGS), (PROMPTS, {"seed": 6})):
        with pytest.raises(QuambaError, match="is of another run"):
            ResultFile(out, settings, prompts)


def test_one_run_at_a_time_and_no_file_is_written_over(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with ResultFile(out, SETTINGS, PROMPTS), pytest.raises(QuambaError, match="is being written") as error:
        ResultFile(out, SETTINGS, PROMPTS)
    assert error.value.code is ExitCode.USAGE
    run(out)
    with pytest.raises(QuambaError, match="exists"):
        run(out)


def test_an_engine_that_fails_loses_nothing(tmp_path: Path) -> None:
    out, bundle = tmp_path / "out.jsonl", tiny_bundle()
    assert isinstance(bundle.engine, SlowEngine)
    bundle.engine.nan_after = 30
    with ResultFile(out, SETTINGS, PROMPTS) as results, pytest.raises(QuambaError, match="failed") as error:
        run_batch(bundle, PROMPTS, results, LIMITS, SAMPLING, max_batch=3, advance=lambda done: None)
    assert error.value.code is ExitCode.NUMERIC
    with ResultFile(out, SETTINGS, PROMPTS) as results:
        assert len(results.done) > 0


@pytest.mark.parametrize(
    ("name", "content", "prompts"),
    [
        ("p.txt", "the a\n\nand\n", ["the a", "and"]),
        ("p.jsonl", '{"prompt": "a\\nb", "id": 1}\n"c"\n', ["a\nb", "c"]),
        ("p.jsonl", '"a\u2028b\x85c"\r\n', ["a\u2028b\x85c"]),  # JSON allows them in a text
    ],
)
def test_prompts_are_lines(tmp_path: Path, name: str, content: str, prompts: list[str]) -> None:
    (tmp_path / name).write_text(content)
    assert read_prompts(tmp_path / name) == prompts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no prompts"),
        ("{", "line 1 is not JSON"),
        ("[" * 99_999, "line 1 is not JSON"),
        ('"a"\n[1]', "line 2 has no prompt"),
    ],
)
def test_what_holds_no_prompts_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(QuambaError, match=said):
        read_prompts(tmp_path / "p.jsonl")


@pytest.mark.parametrize("content", [b"notes", b"notes\nmore", b"{}\n[1]\n", b"\xff\n", b'{"settings": {}'])
def test_a_part_that_is_none_of_ours_keeps_every_byte(tmp_path: Path, content: bytes) -> None:
    part = tmp_path / "out.jsonl.part"
    part.write_bytes(content)
    with pytest.raises(QuambaError, match="is of another run"):
        run(tmp_path / "out.jsonl")
    assert part.read_bytes() == content


@pytest.mark.parametrize("line", [b"{", b"[]\n", b'{"index": 99, "prompt": "the 0"}\n', b'{"index": []}\n'])
def test_lines_of_a_part_are_results(tmp_path: Path, line: bytes) -> None:
    part = tmp_path / "out.jsonl.part"
    with ResultFile(tmp_path / "out.jsonl", SETTINGS, PROMPTS):
        head = part.read_bytes()
    part.write_bytes(head + line)
    if line == b"{":  # cut short: the run goes on without it
        assert run(tmp_path / "out.jsonl") == len(PROMPTS)
    else:
        with pytest.raises(QuambaError, match="is of another run"):
            run(tmp_path / "out.jsonl")


def test_a_disk_that_takes_part_of_a_line_leaves_no_half_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nearly:
        """Takes at most seven bytes at once."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, content: memoryview) -> int:
            return int(self.file.write(content[:7]))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with ResultFile(tmp_path / "out.jsonl", SETTINGS, PROMPTS) as results:
        results._file = Nearly(results._file)  # type: ignore[assignment]
        results.add(0, {"prompt": PROMPTS[0], "text": "a text of more than seven bytes"})
    lines = (tmp_path / "out.jsonl.part").read_text().splitlines()
    assert [json.loads(line).get("index") for line in lines] == [None, 0]


def test_results_go_into_no_bundle(tmp_path: Path) -> None:
    """Which would be refused from then on, for the file too many."""
    (tmp_path / "manifest.json").write_text('{"schema_version": 1, "kind": "bundle"}')
    with pytest.raises(QuambaError, match="would lie in a bundle"):
        run(tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
