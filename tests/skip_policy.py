"""What a skipped test means: listed with its reason at the end of every run; on CI (CI=true) a failure.

A test that needs something a machine may lack calls `pytest.skip` with a reason that names it and the command
that brings it. ALLOWED_ON_CI are the reasons that may stay skips there, each with why.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator

import pytest

ALLOWED_ON_CI = {
    "QUAMBA_TEST_MODELS": "the larger checkpoints are not part of the repository",
    "no Python 3.10 found": "Debian 12 has no package of it",
    "cannot build the TensorRT plugins without NvInfer.h": "cargo fetches it, CI may not reach its registry",
    "cannot fetch TensorRT's headers": "the same",
    "cannot fetch wheels for": "pip fetches those of another machine, CI may not reach its registry",
    "no lm-eval": "760 MB of packages for a few seconds of tests",
    "no systemd-analyze": "a container has no systemd",
    "no mounts of the tests' own": "they are root's",
    "no network namespaces": "the kernel may refuse them to a container",
    "no CUDA GPU": "`make gpu-test` runs those tests where one is",
}


def forbidden(reason: str) -> bool:
    """Whether a skip with this reason is a failure in this run."""
    return os.environ.get("CI") == "true" and not any(reason.startswith(allowed) for allowed in ALLOWED_ON_CI)


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The text given to pytest.skip, skipif or importorskip."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def fail_if_forbidden(report: pytest.TestReport | pytest.CollectReport) -> None:
    # an expected failure (xfail) is also reported as skipped, but is no skip
    if report.skipped and not hasattr(report, "wasxfail") and forbidden(reason_of(report)):
        report.longrepr = f"skipped on CI, where nothing may be missing: {reason_of(report)}"
        report.outcome = "failed"


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_forbidden(report)
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_forbidden(report)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what this machine lacked: each reason once, with the number of tests."""
    reasons = Counter(reason_of(report) for report in terminalreporter.getreports("skipped"))
    if not reasons:
        return
    terminalreporter.section("not tested on this machine", sep="-")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count} skipped: {reason}")
