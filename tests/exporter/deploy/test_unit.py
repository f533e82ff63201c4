"""The systemd unit, by systemd's own check."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from quamba_export.exporter.deploy.device import install
from quamba_export.exporter.deploy.unit import unit_text


def verified(unit: Path) -> str:
    """What systemd-analyze says of it, "" where it is right."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(unit.parent)}
    command = ["systemd-analyze", "--user", "verify", str(unit)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stderr


@pytest.fixture
def current(tmp_path: Path) -> Path:
    launcher = tmp_path / "current/bin/quamba-export"
    launcher.parent.mkdir(parents=True)
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    return tmp_path / "current"


def test_the_unit_is_one(current: Path, tmp_path: Path) -> None:
    unit = tmp_path / "quamba-export.service"
    unit.write_text(unit_text(8000, str(current)))
    assert verified(unit) == ""


def test_a_service_that_takes_its_time_fails_no_deployment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexec sleep 5\n")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(install, "SYSTEMCTL_SECONDS", 0.1)
    assert "took more than" in install.write_unit("[Unit]\n")
    assert "took more than" in str(install.restart_unit())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [("Restart=", "Restrat=", "Restrat"), ("current/bin", "elsewhere/bin", "not executable")],
)
def test_a_fault_in_it_is_seen(current: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    unit = tmp_path / "quamba-export.service"
    unit.write_text(unit_text(8000, str(current)).replace(old, new))
    assert said in verified(unit)


def test_the_printed_unit_is_of_the_user_s_home() -> None:
    text = unit_text(8123)
    assert "ExecStart=%h/.local/share/quamba-export/current/bin/quamba-export serve %h/" in text
    assert "--port 8123" in text
