"""`eval --tasks`: what is refused without lm-eval, and with it a tiny local task on two engines."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_flow import Flow, run_json

from quamba_export.exporter.evaluation.language_models import open_language_model
from quamba_export.exporter.evaluation.task_scores import QUAMBA_TASKS, chosen_tasks
from quamba_export.runtime.errors import QuambaError, install_command

WITHOUT = "no lm-eval: pip install '.[tasks]' (760 MB with what it needs)"
TASK = """
task: next_word
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: 0
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    pytest.importorskip("lm_eval", reason=WITHOUT)
    words = [{"text": f"w{k} w{k + 1}", "choices": [f"w{k + 2}", f"w{k + 3} w1"]} for k in range(1, 9)]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps(line) + "\n" for line in words))
    (tmp_path / "next_word.yaml").write_text(TASK.format(data=tmp_path / "words.jsonl"))
    return tmp_path


def test_engines_score_a_local_task_alike(flow: Flow, task: Path) -> None:
    flags = ("--tasks", "next_word", "--task-path", task)
    reference = run_json("eval", flow.checkpoint, "--calibration", flow.calibration, *flags)
    bundle = run_json("eval", flow.bundle, *flags, "--data", flow.text, "--window", 16, "--max-tokens", 32)
    assert reference["tasks"] == bundle["tasks"]
    assert 0 <= bundle["tasks"]["next_word"]["acc"] <= 1
    assert ("perplexity" in bundle, "perplexity" in reference) == (True, False)


def test_loglikelihood_is_that_of_the_model_s_own_logits(flow: Flow) -> None:
    pytest.importorskip("lm_eval", reason=WITHOUT)
    from quamba_export.exporter.evaluation.task_model import TaskModel

    model = open_language_model(str(flow.checkpoint))
    scored = TaskModel(model=model)._loglikelihood_tokens([(None, [3, 4], [5, 6]), (None, [7], [8])])
    logits, _ = model.forward(np.array([[3, 4, 5]]), None)
    chosen = logits[0].astype(np.float64) - np.log(
        np.exp(logits[0].astype(np.float64)).sum(-1, keepdims=True)
    )
    assert scored[0][0] == pytest.approx(chosen[1, 5] + chosen[2, 6], abs=1e-4)
    assert math.isfinite(scored[1][0])
    (likeliest,) = (int(logits[0, 1].argmax()),)
    assert TaskModel(model=model)._loglikelihood_tokens([(None, [3, 4], [likeliest])])[0][1]


def test_no_more_requests_in_a_call_than_the_model_takes(flow: Flow) -> None:
    pytest.importorskip("lm_eval", reason=WITHOUT)
    from quamba_export.exporter.evaluation.task_model import TaskModel

    model = replace(open_language_model(str(flow.checkpoint)), max_batch=3)
    assert list(map(len, TaskModel(model=model)._batches([[1, 2]] * 7))) == [3, 3, 1]


def test_an_unknown_task_is_refused_with_the_nearest(
    flow: Flow, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_json("eval", flow.checkpoint, "--tasks", "next_wurd", "--task-path", task, exit_code=2)
    assert "did you mean next_word?" in capsys.readouterr().err


def test_without_lm_eval_the_extra_is_named(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    run_json("eval", flow.checkpoint, "--tasks", "quamba", exit_code=2)
    assert install_command("tasks") in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [(), ("--tasks", "piqa", "--cloze", 3), ("--data", "a.txt", "--task-limit", 3)], ids=str
)
def test_options_of_what_is_not_scored_are_refused(
    flow: Flow, flags: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run_json("eval", flow.checkpoint, *flags, exit_code=2)
    assert "was not told what to score" in capsys.readouterr().err


def test_the_paper_s_tasks_go_by_one_name() -> None:
    def names(text: str) -> list[str]:
        chosen = chosen_tasks(text)
        return list(chosen.names) if chosen else []

    assert names("quamba") == list(QUAMBA_TASKS)
    assert names("piqa, quamba")[0] == "piqa"
    assert len(names("piqa,quamba")) == len(QUAMBA_TASKS)
    with pytest.raises(QuambaError, match="names none"):
        names(" ,")


# Sweeps


def swept(flow: Flow, task: Path, out: Path, *vary: str, exit_code: int = 0) -> dict[str, Any]:
    size = ("--calib-size", 2, "--calib-seqlen", 32, "--window", 16, "--max-tokens", 32)
    texts = ("--data", flow.text, "--score", flow.text, "-o", out)
    tasks = ("--tasks", "next_word", "--task-path", task, "--task-limit", 4)
    return run_json("sweep", flow.checkpoint, *texts, *size, *tasks, *vary, exit_code=exit_code)


def test_a_sweep_scores_tasks_and_keeps_them_by_content(flow: Flow, task: Path, tmp_path: Path) -> None:
    """Other examples make new scores and no new calibration; a mark in a kept score shows it was taken."""
    out, vary = tmp_path / "sweep", ("--vary", "qformat=w8a8")
    (first,) = swept(flow, task, out, *vary)["variants"]
    (calibration,) = (out / "calibrations").iterdir()
    flags = ("--tasks", "next_word", "--task-path", task, "--task-limit", 4)
    scored = run_json("eval", flow.checkpoint, "--calibration", calibration, *flags)
    assert first["scores"]["tasks"] == scored["tasks"]
    assert "next_word: acc" in (out / "sweep.md").read_text()
    assert "next_word: acc, on a linear scale" in (out / "sweep.html").read_text()

    (kept,) = (out / "scores").iterdir()
    kept.write_text(json.dumps(first["scores"] | {"mark": 1}))
    assert swept(flow, task, out, *vary)["variants"][0]["scores"]["mark"] == 1
    lines = (task / "words.jsonl").read_text().splitlines(keepends=True)
    (task / "words.jsonl").write_text("".join(lines[1:]))
    assert "mark" not in swept(flow, task, out, *vary)["variants"][0]["scores"]
    assert list((out / "calibrations").iterdir()) == [calibration]


@pytest.mark.parametrize(
    ("flags", "exit_code", "text"),
    [
        (("--tasks", "next_wurd"), 2, "did you mean next_word?"),
        (("--tasks", "next_word", "--task-path", "nowhere"), 3, "no folder of tasks"),
        (("--tasks", "next_word"), 8, "cannot be read"),
    ],
)
def test_a_sweep_without_its_tasks_does_no_work(
    flow: Flow,
    task: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
    exit_code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (task / "words.jsonl").unlink()
    texts = ("--data", flow.text, "--score", flow.text, "-o", tmp_path / "sweep", "--vary", "qformat=w8a8")
    where = () if "--task-path" in flags else ("--task-path", task)
    size = ("--calib-size", 4, "--calib-seqlen", 32)
    run_json("sweep", flow.checkpoint, *texts, *where, *flags, *size, exit_code=exit_code)
    assert text in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_needs_lm_eval_for_tasks_only(
    flow: Flow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    texts = ("--data", flow.text, "--score", flow.text, "-o", tmp_path, "--vary", "alpha=0.9")
    run_json("sweep", flow.checkpoint, *texts, "--tasks", "piqa", exit_code=2)
    assert install_command("tasks") in capsys.readouterr().err
    run_json("sweep", flow.checkpoint, *texts, "--task-limit", 3, exit_code=2)
    assert "--task-limit goes with --tasks" in capsys.readouterr().err
