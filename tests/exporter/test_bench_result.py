"""Percentiles, floors and joules of `bench`, and one result beside another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tiny_flow import run_json
from tiny_recurrent import write_tiny_export
from typer.testing import CliRunner

from quamba_export.exporter.cli import app
from quamba_export.exporter.speed import bench
from quamba_export.exporter.speed.bench import Ids, Turns, benchmark, byte_floor
from quamba_export.exporter.speed.bench_result import compare_runs, markdown, spread
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import read_manifest

SIZE = ("--threads", "1", "--prompt-tokens", "5", "--new-tokens", "3", "--rounds", "2")


class Sleeper:
    """Takes 8 s for a prompt, and 1, 2 and 4 s for three tokens, on a clock of its own; 2 W."""

    name, source = "sleeper", "a socket"

    def __init__(self) -> None:
        self.now, self.token = 0.0, 0

    def start(self, input_ids: Ids) -> None:
        self.now, self.token = self.now + 8, 0

    def step(self, input_ids: Ids) -> None:
        self.now += 2**self.token
        self.token += 1

    def joules(self) -> float:
        return 2 * self.now

    def close(self) -> None:
        self.now = -1.0


def test_every_time_has_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = Sleeper()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: sleeper.now)
    (speed,) = benchmark([sleeper], Turns(8, 5, 3, rounds=2), energy=sleeper)
    assert speed.ttft.samples == [8e3, 8e3]
    assert speed.tpot.samples == [1e3, 2e3, 4e3] * 2
    assert speed.ttlt.samples == [15e3, 15e3]
    assert (speed.ttft_ms, speed.tpot_ms, speed.tpot.p50) == (8e3, pytest.approx(7e3 / 3), 2e3)
    assert speed.joules_per_token == pytest.approx(2 * 7 / 3)  # of the decoding alone
    assert sleeper.now == -1.0  # the meter is closed
    (unmeasured,) = benchmark([sleeper], Turns(8, 5, 3, rounds=1))
    assert unmeasured.joules_per_token is None


def test_percentiles_are_linear_between_samples() -> None:
    found = spread([k / 1e3 for k in range(101)])
    assert (found.p50, found.p90, found.p99) == pytest.approx((50, 90, 99))
    assert spread([2.0]).p99 == 2e3


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    export = write_tiny_export(folder / "export")
    found = run_json("bench", export, *SIZE, "--markdown", folder / "table.md")
    return found | {"markdown": (folder / "table.md").read_text()}


def test_a_table_that_cannot_be_written_is_no_reason_to_measure_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "bench_bundle", lambda *words, **more: pytest.fail("measured"))
    export = write_tiny_export(tmp_path / "export")
    for table in (tmp_path / "no/table.md", export / "table.md"):
        run_json("bench", export, *SIZE, "--markdown", table, exit_code=2)


def test_a_run_keeps_samples_memory_and_no_energy_here(result: dict[str, Any]) -> None:
    (speed,) = result["speeds"]
    assert [len(speed[name]["samples"]) for name in ("ttft", "tpot", "ttlt")] == [2, 6, 2]
    assert speed["tpot"]["p50"] <= speed["tpot"]["p90"] <= speed["tpot"]["p99"]
    assert (result["gpu"], result["device_bytes"], result["byte_floor"]) == ("", None, None)
    assert result["host_peak_bytes"] > 1 << 20
    assert "| ONNX Runtime |" in result["markdown"]
    assert "prompt 5, 3 new tokens, batch 1, 2 rounds" in result["markdown"]


def test_the_byte_floor_is_bytes_by_bandwidth(tmp_path: Path) -> None:
    manifest = read_manifest(write_tiny_export(tmp_path / "export"))
    assert byte_floor(manifest, 100, 1.0) is None  # whose embedding is not known to be its head
    manifest.config["tie_embeddings"] = True  # type: ignore[index]
    assert byte_floor(manifest, None, 1.0) is None  # the CPU's bandwidth is not known
    floor = byte_floor(manifest, 0.5, 2.0)
    assert floor is not None
    weights, states = manifest.files["model.onnx.data"].size, sum(state.nbytes for state in manifest.states)
    assert (floor.weight_bytes, floor.state_bytes) == (weights, states)
    assert floor.tpot_ms == pytest.approx((weights + 2 * states) / 0.5e6)
    assert floor.share == pytest.approx(floor.tpot_ms / 2)


def write(path: Path, result: dict[str, Any], factor: float = 1.0, **changes: Any) -> Path:
    """A result whose times are `factor` as long."""
    result = json.loads(json.dumps(result))
    for speed in result["speeds"]:
        for name in ("ttft", "tpot", "ttlt"):
            speed[name]["p50"] *= factor
    path.write_text(json.dumps(result | changes))
    return path


def test_a_slower_run_is_an_error_by_its_code(result: dict[str, Any], tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", result)
    for factor, allow, code in (
        (1.0, "0%", 0),
        (1.04, "5%", 0),
        (1.06, "5%", 9),
        (0.5, "0", 0),
        (1.2, "0.3", 0),
    ):
        new = write(tmp_path / "new.json", result, factor)
        found = run_json("bench", "--compare", old, new, "--allow", allow, exit_code=code)
        assert [change["worse"] for change in found["changes"]] == [code == 9] * 3


def test_more_joules_are_worse_too(result: dict[str, Any], tmp_path: Path) -> None:
    files = []
    for joules in (1.0, 2.0):
        (speed,) = json.loads(json.dumps(result["speeds"]))
        files.append(
            write(tmp_path / f"{joules}.json", result, speeds=[speed | {"joules_per_token": joules}])
        )
    (worse,) = compare_runs(*files, 0.05).worse
    assert (worse.figure, worse.ratio) == ("joules a token", 2.0)


def test_what_one_run_lacks_is_said(result: dict[str, Any], tmp_path: Path) -> None:
    (speed,) = json.loads(json.dumps(result["speeds"]))
    other = speed | {"name": "PyTorch"}
    old = write(tmp_path / "old.json", result, speeds=[speed | {"joules_per_token": 1.0}, other])
    found = compare_runs(old, write(tmp_path / "new.json", result), 0.05)
    name = speed["name"]
    assert found.not_compared == [
        f"{who}: only in the older run"
        for who in (
            f"{name} joules a token",
            *(f"PyTorch {time} p50 ms" for time in ("tpot", "ttft", "ttlt")),
        )
    ]
    shown = CliRunner().invoke(app, ["bench", "--compare", str(old), str(tmp_path / "new.json")]).stdout
    assert shown.count("not compared: ") == 4


@pytest.mark.parametrize("key", ["cpu", "gpu", "threads", "prompt_tokens", "new_tokens"])
def test_runs_that_were_not_made_alike_are_not_compared(
    result: dict[str, Any], tmp_path: Path, key: str
) -> None:
    old, new = write(tmp_path / "old.json", result), write(tmp_path / "new.json", result, **{key: "other"})
    with pytest.raises(QuambaError, match="cannot be compared"):
        compare_runs(old, new, 0.05)


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "no speeds": lambda result: result.pop("speeds"),
    "no threads": lambda result: result.pop("threads"),
    "a negative time": lambda result: result["speeds"][0]["ttft"].update(p50=-1),
    "a number too large": lambda result: result["speeds"][0]["ttft"].update(p50=10**400),
    "no number": lambda result: result["speeds"][0]["ttft"].update(p50=None),
    "of an older release": lambda result: result["speeds"][0].pop("ttlt"),
    "a list": lambda result: result.update(speeds=[[]]),
}


@pytest.mark.parametrize("edit", WRONG.values(), ids=WRONG.keys())
def test_what_is_no_result_is_named(
    result: dict[str, Any], tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    wrong = json.loads(json.dumps(result))
    edit(wrong)
    old, new = write(tmp_path / "old.json", result), tmp_path / "new.json"
    new.write_text(json.dumps(wrong))
    with pytest.raises(QuambaError, match=r"new\.json is no result of bench") as caught:
        compare_runs(old, new, 0.05)
    assert caught.value.code is ExitCode.INVALID_INPUT
    with pytest.raises(QuambaError, match="is no result"):
        compare_runs(old, tmp_path / "nowhere.json", 0.05)


def test_others_names_have_nothing_in_common(result: dict[str, Any], tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", result)
    with pytest.raises(QuambaError, match="nobody in common"):
        compare_runs(old, write(tmp_path / "new.json", result, speeds=[]), 0.05)


def test_what_is_asked_for_is_one_thing(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "old.json", result)
    run_json("bench", exit_code=2)
    run_json("bench", tmp_path, "--compare", file, file, exit_code=2)
    for allow in ("much", "-1%", "nan", "", "1001%"):
        run_json("bench", "--compare", file, file, "--allow", allow, exit_code=2)
    run_json("bench", "--compare", file, file, "--allow", "5", exit_code=2)  # 500 % would allow everything
    assert "did you mean 5%?" in capsys.readouterr().err


def test_a_table_has_a_row_for_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    from quamba_export.exporter.speed.bench_result import Benchmark, ByteFloor

    sleeper = Sleeper()
    monkeypatch.setattr(bench.time, "perf_counter", lambda: sleeper.now)
    speeds = benchmark([sleeper], Turns(8, 5, 3, rounds=1), energy=sleeper)
    floor = ByteFloor(10, 2, 0.5, 1000.0, 0.5)
    made = Benchmark("b", "cpu", "gpu", 1, 5, 3, 1, speeds, "them", [], "rails", None, 3 << 20, floor)
    text = markdown(made)
    assert "| sleeper | 8000.00 / 8000.00 / 8000.00 | 2000.00 / 3600.00 / 3960.00 |" in text
    assert "| 4.6667 |" in text
    assert "- byte floor of TPOT: 1000.000 ms at 0.5 GB/s, 50% of the measured median" in text
    assert "- GPU memory taken: 3 MiB" in text
    assert asdict(made)["energy"] == "rails"
    assert "- left out: them" in text
