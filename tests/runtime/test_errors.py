"""The pip command of a missing extra: it must work where it is printed, and the project is on no index."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from quamba_export.runtime import errors
from quamba_export.runtime.errors import install_command

ROOT = Path(__file__).parents[2]


class Installed:
    """A distribution by pip's record of where it came from."""

    def __init__(self, origin: dict[str, Any] | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return self.origin and json.dumps(self.origin)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command for the extra `hub` of an installation by its record."""
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))

    def of(origin: dict[str, Any] | None) -> str:
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(origin))
        return install_command("hub")

    return of


def test_a_checkout_stays_as_editable_as_it_is_and_keeps_its_pins(command: Any, tmp_path: Path) -> None:
    checkout = tmp_path / "with space"
    checkout.mkdir()
    origin = {"url": checkout.as_uri(), "dir_info": {"editable": True}}
    assert command(origin) == f"pip install -e '{checkout}[hub]'"
    (checkout / "constraints.txt").touch()
    assert command(origin) == f"pip install -e '{checkout}[hub]' -c '{checkout}/constraints.txt'"
    assert command(origin | {"dir_info": {}}).startswith(f"pip install '{checkout}[hub]' -c ")


def test_a_wheel_is_named_by_its_file(command: Any, tmp_path: Path) -> None:
    wheel = tmp_path / "quamba_export-0.1.0-py3-none-any.whl"
    assert command({"url": wheel.as_uri(), "archive_info": {}}) == f"pip install '{wheel}[hub]'"


def test_urls_and_an_index(command: Any) -> None:
    assert command({"url": "https://a.b/q.whl", "archive_info": {}}) == (
        "pip install 'quamba-export[hub] @ https://a.b/q.whl'"
    )
    git = {"url": "https://a.b/q.git", "vcs_info": {"vcs": "git"}}
    assert command(git) == "pip install 'quamba-export[hub] @ git+https://a.b/q.git'"
    assert command(None) == "pip install 'quamba-export[hub]'"


def test_a_checkout_on_the_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", fail)
    monkeypatch.setattr(errors, "__file__", str(ROOT / "runtime" / "errors.py"))
    assert f"install '{ROOT}[hub]' -c {ROOT}/constraints.txt" in install_command("hub")


def test_another_pip_than_this_environment_s_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert install_command("hub").startswith(f"{sys.executable} -m pip install ")
