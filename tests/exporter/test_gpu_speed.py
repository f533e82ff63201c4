"""Measured speeds: medians, the byte floor, files of them, and the tables that compare two."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from refusals import refused
from typer.testing import CliRunner

from quamba_export.exporter.speed import gpu_speed
from quamba_export.exporter.speed.gpu_speed import (
    GpuSpeed,
    append_speed,
    copy_gb_per_s,
    milliseconds,
    read_speeds,
)
from quamba_export.exporter.speed.gpu_speed_table import compared, context_table, main, rows, times_table

OURS = GpuSpeed(
    engine="quamba-export, TensorRT 10.6.0",
    size="mamba2-2.7b",
    numbers="w8a8",
    gpu="NVIDIA H200",
    gb_per_s=4000.0,
    weight_bytes=2_000_000_000,
    state_bytes=100_000_000,
    ttft_ms={"512": 16.0, "2048": 60.0},
    tpot_ms={"1": 1.1, "64": 7.4},
    context_tpot_ms={"512": 1.1, "32768": 1.12},
    free_running_tpot_ms={},
    peak_mib={"1": 3000.0, "64": 9000.0},
)
THEIRS = replace(
    OURS,
    engine="mamba-ssm 2.3.2",
    numbers="fp16",
    weight_bytes=5_000_000_000,
    ttft_ms={"512": 64.0, "2048": 90.0},
    tpot_ms={"1": 3.3, "64": 5.0},
    context_tpot_ms={},
    free_running_tpot_ms={"1": 3.2, "64": 4.9},
    peak_mib={"1": 6000.0},
)


def test_the_floor_is_the_time_that_the_bytes_take() -> None:
    assert OURS.floor_ms(1) == pytest.approx(2.2e9 / 4e12 * 1e3)
    assert OURS.floor_share(1) == pytest.approx(0.5)
    assert OURS.floor_share(64) == pytest.approx((2 + 12.8) / 4 / 7.4)


def test_a_median_leaves_out_the_warm_up_and_a_slow_run() -> None:
    durations = iter([0.05] * gpu_speed.WARM_UP + [0.002, 0.03, 0.002])
    assert 2 <= milliseconds(lambda: time.sleep(next(durations)), 3) < 20


def test_a_copy_counts_reads_and_writes() -> None:
    assert 0.5 < copy_gb_per_s(lambda: time.sleep(0.002), 1_000_000) <= 1


def test_lines_come_back_as_they_were(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "speeds.jsonl"
    for speed in (OURS, THEIRS):
        append_speed(path, speed)
    assert read_speeds(path) == [OURS, THEIRS]
    assert capsys.readouterr().out == path.read_text()


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"size": "mamba2-2.7b"}'])
def test_a_line_of_something_else_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "speeds.jsonl"
    append_speed(path, OURS)
    path.write_text(path.read_text() + line + "\n")
    with refused("line 2 of", "is no measured speed", "weight_bytes"):
        read_speeds(path)


def test_rows_say_which_aims_are_met() -> None:
    found = {row.figure: (round(row.times, 2), row.aim) for row in rows(OURS, THEIRS)}
    assert found == {
        "TTFT(512)": (4.0, "4 times: met, below 24.6 ms: met"),
        "TTFT(2048)": (1.5, ""),
        "TPOT, batch 1": (3.0, "2 times: met, below 3.31 ms: met"),
        "TPOT, batch 64": (0.68, ""),
    }


@pytest.mark.parametrize(
    ("numbers", "tpot", "aim"),
    [
        ("w8a8", 1.66, "2 times: short, below 3.31 ms: met"),
        ("w4a8", 1.5, "2.5 times: short, below 3.31 ms: met"),
        ("w4a8", 1.3, "2.5 times: met, below 3.31 ms: met"),
        ("w8a8", 3.4, "2 times: short, below 3.31 ms: short"),
    ],
)
def test_each_width_has_its_own_aim(numbers: str, tpot: float, aim: str) -> None:
    speed = replace(OURS, numbers=numbers, tpot_ms={"1": tpot})
    assert [row.aim for row in rows(speed, THEIRS) if row.figure == "TPOT, batch 1"] == [aim]


def test_tpot_that_grows_with_the_context_is_called_short() -> None:
    grown = replace(OURS, size="grown", context_tpot_ms={"512": 1.1, "32768": 1.3})
    flat, short = list(context_table([OURS, grown]))[2:]
    assert flat == "| mamba2-2.7b, w8a8 | 1.1000 | 1.1200 | 1.8%: met |"
    assert short == "| grown, w8a8 | 1.1000 | 1.3000 | 18.2%: short |"


def test_sizes_that_share_no_context_have_no_table() -> None:
    assert list(context_table([OURS, replace(OURS, size="other", context_tpot_ms={"4096": 1.1})])) == []


def test_only_the_same_size_on_the_same_gpu_is_compared() -> None:
    again = replace(OURS, gb_per_s=4100.0)
    other = replace(OURS, size="mamba-130m")
    assert compared([OURS, other, again], [THEIRS]) == [(again, THEIRS)]
    with refused("no model in common", "found: mamba2-2.7b on Another GPU", "mamba2-2.7b on NVIDIA H200"):
        compared([replace(OURS, gpu="Another GPU")], [THEIRS])


def test_both_widths_of_a_size_are_told_apart() -> None:
    int4 = replace(OURS, numbers="w4a8", tpot_ms={"1": 1.3})
    pairs = compared([OURS, int4], [THEIRS])
    assert pairs == [(OURS, THEIRS), (int4, THEIRS)]
    lines = [line for line in times_table(pairs) if "TPOT, batch 1 " in line]
    assert [line.split(" | ")[0] for line in lines] == ["| mamba2-2.7b, w8a8", "| mamba2-2.7b, w4a8"]
    assert lines[1].endswith("| 2.54 | 2.5 times: met, below 3.31 ms: met |")


def test_the_command_prints_the_three_tables(tmp_path: Path) -> None:
    import typer

    paths = [tmp_path / "ours.jsonl", tmp_path / "theirs.jsonl"]
    for path, speed in zip(paths, (OURS, THEIRS), strict=True):
        append_speed(path, speed)
    app = typer.Typer()
    app.command()(main)
    printed = CliRunner().invoke(app, [str(path) for path in paths]).stdout
    assert "| mamba2-2.7b, w8a8 | TPOT, batch 1 | 1.100 | 3.300 (3.200) | 3.00 | 2 times: met" in printed
    assert "| mamba2-2.7b | mamba-ssm 2.3.2, fp16 | 4000 | 5200 | 39% |" in printed
    assert "3000 (batch 1), 9000 (batch 64)" in printed
