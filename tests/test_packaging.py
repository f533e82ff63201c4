"""The wheel, and the runtime extra alone on Python 3.10 (JetPack 6): imports, and a run of a CPU bundle."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[1]
STAGES = ("calib", "exporter", "plugins", "runtime", "targets")

# one process: the environment of Python 3.10 is made once, in one place
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packaging")]


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command and return its output; a failure shows it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's wheel, built from a copy: setuptools writes build/ and *.egg-info beside its sources."""
    source = tmp_path_factory.mktemp("source")
    for stage in STAGES:
        shutil.copytree(ROOT / stage, source / stage, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source)
    return next((source / "dist").glob("*.whl"))


def test_wheel_holds_the_stages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    metadata = [name for name in names if ".dist-info/" in name]
    packaged = {name.removeprefix("quamba_export/") for name in names if name not in metadata}
    data = {
        ".toml",
        ".md",
        ".html",
        ".css",
        ".js",
        ".py",
        ".cu",
        ".cuh",
        ".h",
        ".cpp",
        ".map",
        ".txt",
        ".service",
    }
    expected = {
        str(path.relative_to(ROOT))
        for stage in STAGES
        for path in (ROOT / stage).rglob("*")
        if path.suffix in data and "__pycache__" not in path.parts
    }
    assert all(name.startswith("quamba_export/") for name in names if name not in metadata)
    assert packaged == expected
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def find_python310() -> str:
    pyenv = os.environ.get("PYENV_ROOT", str(Path.home() / ".pyenv"))
    for candidate in ["python3.10", *sorted(glob.glob(f"{pyenv}/versions/3.10*/bin/python"))]:
        path = shutil.which(candidate)
        probe = "import sys, ensurepip; print(sys.version_info[:2])"
        if path and subprocess.run([path, "-c", probe], capture_output=True, text=True).stdout == "(3, 10)\n":
            return path
    pytest.skip("no Python 3.10 found (python3.10 on PATH, or `pyenv install 3.10`)")


@pytest.fixture(scope="module")
def python310(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python 3.10 with the wheel and the runtime extra. The environment stays in .venv for the next run."""
    base = find_python310()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = repr((project["dependencies"], project["optional-dependencies"]["runtime"])).encode()
    wanted = hashlib.sha256(needs + (ROOT / "constraints.txt").read_bytes())
    kept = ROOT / ".venv" / f"python310-{wanted.hexdigest()[:16]}"
    python = kept / "bin" / "python"
    if not (kept / "complete").exists():
        for old in kept.parent.glob("python310-*"):
            shutil.rmtree(old)
        run(base, "-m", "venv", "--clear", kept)
        pip = ["install", "-q", "--no-compile", f"{wheel}[runtime]", "-c", ROOT / "constraints.txt"]
        run(python, "-m", "pip", *pip)
        (kept / "complete").touch()
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel)
    return python


@pytest.fixture(scope="module")
def cpu_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the embedded Mamba-2, made by this Python as a user would make it for a device."""
    out = tmp_path_factory.mktemp("cpu_bundle")
    checkpoint, text = ROOT / "embedded" / "mamba2-kjv", ROOT / "embedded" / "calibration.txt"
    sizes = ("--calib-size", "8", "--calib-seqlen", "64")
    cli = Path(sys.executable).with_name("quamba-export")
    run(cli, "calibrate", checkpoint, "--data", text, *sizes, "-o", out / "calibration")
    run(cli, "export", checkpoint, "--calibration", out / "calibration", "-o", out / "export")
    run(cli, "build", out / "export", "--target", "cpu", "-o", out / "bundle")
    return out / "bundle"


def test_runtime_imports_on_python_3_10(python310: Path, tmp_path: Path) -> None:
    modules = [f"quamba_export.runtime.{path.stem}" for path in (ROOT / "runtime").glob("[!_]*.py")]
    program = f"import sys, {', '.join(modules)}; print(sys.version_info[:2], {modules[0]}.__file__)"
    output = run(python310, "-c", program, cwd=tmp_path)
    assert output.startswith("(3, 10)")
    assert "python310-" in output  # the wheel's files, not the checkout's


def test_run_generates_on_python_3_10(python310: Path, cpu_bundle: Path, tmp_path: Path) -> None:
    console_script = python310.with_name("quamba-export")
    text = run(
        console_script,
        "run",
        cpu_bundle,
        "--prompt",
        "In the beginning",
        "--max-new-tokens",
        "8",
        cwd=tmp_path,
    )
    assert text.strip()


def test_a_missing_extra_is_named(python310: Path, wheel: Path, tmp_path: Path) -> None:
    command = [
        python310.with_name("quamba-export"),
        "calibrate",
        tmp_path,
        "--data",
        tmp_path / "text.txt",
        "-o",
        "c",
    ]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"{wheel}[calibrate]'" in result.stderr
