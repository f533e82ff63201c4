"""What people see, on a terminal of 80 columns: no figure cut off, no dict of Python's, no command broken."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console
from tiny_flow import Flow
from typer.testing import CliRunner

from quamba_export.exporter import cli
from quamba_export.exporter.commands.compare import show
from quamba_export.exporter.comparison.compare import PairComparison, SiteComparison
from quamba_export.exporter.comparison.models import Comparison
from quamba_export.exporter.doctor import doctor
from quamba_export.exporter.doctor.checks import Check
from quamba_export.runtime.errors import ExitCode, QuambaError

FIX = "pip install -e '/opt/somewhere/with/a/long/path/to/quamba-export[runtime-gpu]' -c constraints.txt"


def shown(*arguments: object) -> list[str]:
    """Lines of a command's output."""
    done = CliRunner().invoke(cli.app, [*map(str, arguments)], env={"COLUMNS": "80"})
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    assert "…" not in done.output
    return done.output.splitlines()


def refusal(*arguments: object) -> str:
    done = CliRunner().invoke(cli.app, [*map(str, arguments)])
    assert isinstance(done.exception, QuambaError), done.output
    return str(done.exception)


def test_inspect_reads_like_facts(flow: Flow) -> None:
    for path in (flow.checkpoint, flow.calibration, flow.export, flow.bundle):
        lines = shown("inspect", path)
        assert not [line for line in lines if "{" in line or "__float__" in line or line.endswith("[]")]
        limit = next(line.split() for line in lines if "time_step_limit" in line)
        assert limit == ["time_step_limit", "0,", "inf"]


def test_a_calibration_s_scales_are_those_of_one_layer_and_the_worst(flow: Flow) -> None:
    lines = shown("inspect", flow.calibration, "--layer", 1)
    assert len(lines) < 90
    at = lines.index(next(line for line in lines if line.startswith("sites of layer 1")))
    end = lines.index("", at)
    assert {line.split()[0] for line in lines[at + 2 : end]} >= {"norm_out", "x", "B", "C", "dt", "z"}
    assert all(len(line) <= 80 for line in lines[at:end])
    assert any(line.startswith("the lowest SNR of all layers") for line in lines[end:])


def test_targets_and_compare_have_a_line_a_row(flow: Flow) -> None:
    rows = shown("targets")
    assert [row.split()[0] for row in rows[1:3]] == ["a100", "agx-orin,"]
    assert max(map(len, rows)) <= 80
    text = ("--data", flow.text, "--window", 16, "--max-tokens", 16)
    compared = shown("compare", flow.export, "--against", flow.checkpoint, *text, "--worst", 100)
    site = next(line for line in compared if line.startswith("layers.1.conv_state"))
    assert len(site.split()) in (5, 6)


def test_compare_shows_the_worst_sites_and_counts_the_rest() -> None:
    snrs = (math.inf, 30.0, 9.0, 20.0, 5.0, math.inf)
    sites = [
        SiteComparison(f"layers.{i}.x", 0.1, 0.1, 1.0, snr, 0.0, snr >= 10) for i, snr in enumerate(snrs)
    ]
    pair = PairComparison("float", "ONNX Runtime", "layers.2.x", 0.0, 1.0, sites)
    equal = replace(pair, first_beyond_tolerance=None, sites=[sites[0], sites[5]])
    out = io.StringIO()
    result = Comparison("export", "checkpoint", None, None, 16, 16, 10.0, [pair, equal])
    show(result, 1, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines if line.startswith("layers")] == ["layers.2.x", "layers.4.x"]
    assert "2 of 6 sites are equal, 2 more differ by less (--worst shows more)" in lines
    assert "first beyond tolerance (10 dB): layers.2.x" in lines
    assert "2 of 2 sites are equal" in lines


def test_doctor_keeps_its_commands_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Check("GPU", "missing", "none", ("gpu-run",), "TensorRT bundles", FIX),
        Check("numpy", "ok", "numpy 2", ("cpu",), "states", ""),
    ]
    monkeypatch.setattr(doctor, "diagnose", lambda *_: doctor.Diagnosis("cpu", True, tuple(found)))
    assert f"                fix: {FIX}" in [*map(str.rstrip, shown("doctor"))]


def test_a_folder_of_another_kind_is_called_by_its_name(flow: Flow) -> None:
    text = ("--data", flow.text, "-o", flow.text.with_name("never"))
    above = refusal("calibrate", flow.checkpoint.parent, *text)
    assert "no config.json in it" in above
    assert f"did you mean {flow.checkpoint}?" in above
    assert "found: an export" in refusal("calibrate", flow.export, *text)
    scales = ("export", flow.checkpoint, "-o", flow.text.with_name("never"), "--calibration")
    assert f"{flow.bundle} is a bundle" in refusal(*scales, flow.bundle)
    assert "no directory nowhere" in refusal(*scales, "nowhere")


def test_deploy_and_targets_name_what_was_typed(flow: Flow) -> None:
    assert "fix: quamba-export deploy --status user@host" in refusal("deploy", "--status")
    assert f"fix: quamba-export deploy {flow.bundle} user@host" in refusal("deploy", flow.bundle)
    rollback = refusal("deploy", "--rollback", flow.bundle, "a@b")
    assert f"the bundle {flow.bundle}" in rollback
    assert "fix: quamba-export deploy --rollback a@b" in rollback
    assert "fix: quamba-export targets show orin" in refusal("targets", "orin")


def test_a_flag_s_unknown_value_is_usage(flow: Flow) -> None:
    """Exit 2, as README has it, however deep the value is looked up; 3 is for what a file says."""
    text = ("--data", flow.text, "-o", flow.text.with_name("never"))
    wrong = (
        ("calibrate", "--recipe", "quamba3", "unknown recipe (a file must end in .toml): quamba3"),
        ("calibrate", "--rounding", "gtpq", "unknown --rounding: gtpq\n  allowed: gptq, nearest"),
        ("accuracy", "--only", "fp61", "unknown row of the table: fp61"),
    )
    for command, flag, value, message in wrong:
        score = ("--score", flow.text) if command == "accuracy" else ()
        done = CliRunner().invoke(
            cli.app, [*map(str, (command, flow.checkpoint, *text, *score, flag, value))]
        )
        assert isinstance(done.exception, QuambaError), done.output
        assert (done.exception.code, str(done.exception)[: len(message)]) == (ExitCode.USAGE, message)
