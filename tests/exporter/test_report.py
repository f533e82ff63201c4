"""The report: from the JSON of commands to one page that needs nothing else."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tiny_flow import Flow, run_json

from quamba_export.exporter.inspection.model_columns import lowest_snr
from quamba_export.exporter.report.charts import Band, Bar, heatmap, small_multiples, stacked_bars
from quamba_export.exporter.report.data import read_runs
from quamba_export.exporter.report.report import write_report
from quamba_export.runtime.errors import QuambaError


def evaluation(perplexity: float, **changes: Any) -> dict[str, Any]:
    facts = {
        "path": "m",
        "kind": "bundle",
        "engine": "ONNX Runtime",
        "qformat": "w8a8",
        "ssm_state_dtype": "float16",
        "mode": "prefill",
    }
    return facts | {"perplexity": perplexity, "bits_per_byte": 1.0, "tokens": 100, "window": 32} | changes


FLOAT = evaluation(10.0, kind="checkpoint", qformat="fp32", ssm_state_dtype="float32")


def write_run(folder: Path, **files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    for name, facts in files.items():
        (folder / f"{name.replace('_', '-')}.json").write_text(json.dumps(facts))
    return folder


def page_of(*folders: Path, out: Path) -> str:
    return write_report(read_runs(list(folders)), out).read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects the text, and every attribute that a browser would load something for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.loads = "", list[str]()
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [
            f"{tag} {key}={value}" for key, value in attrs if key in ("src", "href", "data", "srcset")
        ]
        self.loads += [tag] if tag in ("script", "link", "iframe", "object", "img") else []


def test_a_whole_run_shows_every_section_and_loads_nothing(flow: Flow, tmp_path: Path) -> None:
    text = ("--data", flow.text, "--window", 32, "--max-tokens", 64)
    run = write_run(
        tmp_path / "run",
        inspect_checkpoint=run_json("inspect", flow.checkpoint),
        inspect_calibration=run_json("inspect", flow.calibration),
        inspect_export=run_json("inspect", flow.export),
        compare=run_json("compare", flow.export, "--against", flow.checkpoint, *text),
        eval_float=run_json("eval", flow.checkpoint, *text),
        eval_prefill=run_json("eval", flow.bundle, "--against", flow.checkpoint, *text),
        run={"prompt": "w1", "text": " w2 w3"},
    )
    page = page_of(tmp_path, out=tmp_path / "report.html")
    reader = Reader(page)
    for heading in (
        "Perplexity before and after",
        "What it writes",
        "Error per layer",
        "Scales",
        "Size of the weights",
    ):
        assert heading in reader.text
    assert f"{json.loads((run / 'eval-prefill.json').read_text())['perplexity']:.4f}" in reader.text
    assert reader.loads == ["a href=#run"]
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.parametrize(
    ("perplexity", "verdict", "sentence"),
    [
        (
            10.05,
            "within 1 % of float",
            "the model stays within 1 % of float perplexity; the largest change is +0.50 %.",
        ),
        (11.0, "beyond 1 % of float", "perplexity rises by up to +10.00 % over float."),
    ],
)
def test_the_summary_says_what_quantization_cost(
    tmp_path: Path, perplexity: float, verdict: str, sentence: str
) -> None:
    write_run(tmp_path / "m", eval_a=evaluation(perplexity), eval_b=FLOAT)
    text = Reader(page_of(tmp_path / "m", out=tmp_path / "report.html")).text
    assert verdict in text
    assert sentence in text


def test_decode_is_measured_against_float_and_a_coarse_state_is_shown_but_not_the_verdict(
    tmp_path: Path,
) -> None:
    coarse = evaluation(13.0, kind="reference", mode="decode", ssm_state_dtype="int8")
    write_run(tmp_path / "m", eval_a=evaluation(10.02, mode="decode"), eval_b=FLOAT, eval_c=coarse)
    (run,) = read_runs([tmp_path / "m"])
    assert run.change_in("decode") == pytest.approx(0.002)
    assert [score.change for score in run.scores] == [None, pytest.approx(0.002), pytest.approx(0.3)]


def test_what_is_missing_leaves_its_section_out(tmp_path: Path) -> None:
    write_run(tmp_path / "m", eval_a=FLOAT)
    text = Reader(page_of(tmp_path / "m", out=tmp_path / "report.html")).text
    assert "Perplexity before and after" in text
    assert not re.search("What it writes|Error per layer|Scales|Size of the weights|within", text)


def test_text_of_a_model_is_shown_as_text(tmp_path: Path) -> None:
    write_run(tmp_path / "m", eval_a=FLOAT, run={"prompt": "<b>", "text": "<script>alert(1)</script>"})
    reader = Reader(page_of(tmp_path / "m", out=tmp_path / "report.html"))
    assert "<script>alert(1)</script>" in reader.text
    assert "script" not in reader.loads


def test_folders_of_several_models_share_a_page(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / "runs" / name, eval_a=evaluation(10.01), eval_b=FLOAT)
    text = Reader(page_of(tmp_path / "runs", out=tmp_path / "deep" / "report.html")).text
    assert "both models stay within 1 %" in text


def test_nothing_to_report_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QuambaError, match="nothing to report on"):
        read_runs([tmp_path, tmp_path / "nowhere"])
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(QuambaError) as caught:
        read_runs([tmp_path, tmp_path / "nowhere", tmp_path / "scores.json"])
    assert f"{tmp_path}: scores.json, names of no command's" in caught.value.found
    assert "nowhere: no such folder; " in caught.value.found
    assert caught.value.found.endswith("scores.json: a file")


@pytest.mark.parametrize("content", ["", "[1]", "{'a': 1}"])
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "eval-x.json").write_text(content)
    with pytest.raises(QuambaError, match=r"eval-x\.json is no command's JSON"):
        read_runs([tmp_path])


def test_charts_hold_a_mark_for_every_value() -> None:
    cells = heatmap(["x", "<y>"], ["0", "1"], [[0.5, None], [0.1, 1.0]], float, str, "title")
    assert cells.count('class="heat"') == 3
    assert "&lt;y&gt;" in cells
    panels = small_multiples([Band("x", [1, 1], [1, 2], [1, 4]), Band("flat", [3], [3], [3])], "title")
    assert panels.count('class="dot"') == 3
    bars = stacked_bars(
        [Bar("before", [("a", 4_000_000)]), Bar("after", [("a", 1_000_000), ("b", 0)])], "title"
    )
    assert "4.00 MB" in bars
    assert bars.count("<rect") == 3


def test_an_engine_is_called_by_its_name(tmp_path: Path) -> None:
    engines = {"eval_a": "ONNX Runtime, CUDA", "eval_c": "TensorRT"}
    scored = {name: evaluation(10.0, engine=engine) for name, engine in engines.items()}
    write_run(tmp_path / "m", eval_b=FLOAT, **scored)
    (run,) = read_runs([tmp_path / "m"])
    labels = [score.label for score in run.scores]
    assert labels == ["float32", "W8A8, ONNX Runtime, CUDA", "W8A8, TensorRT"]


def test_the_lowest_snr_is_that_of_a_state_that_differs() -> None:
    def pair(*snrs: float | None, max_abs: float = 1.0) -> dict[str, Any]:
        sites = [{"site": "layers.0.ssm_state", "snr_db": snr, "max_abs": max_abs} for snr in snrs]
        return {"sites": [*sites, {"site": "layers.0.x", "snr_db": -3.0, "max_abs": 1.0}]}

    assert lowest_snr(pair(30.0, 20.0), "ssm_state") == 20.0
    assert lowest_snr(pair(30.0, None), "ssm_state") == -math.inf  # nothing where float has zeros
    assert lowest_snr(pair(None, max_abs=0.0), "ssm_state") is None
