"""What holds across folders: import arrows, light runtime, quick start, one package mapping, a tidy tree."""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).parents[1]
STAGES = ("calib", "exporter", "plugins", "runtime", "targets")
SCRIPTS = Path(sys.executable).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PYPROJECT["tool"]["setuptools"]["packages"]

MAX_LINES = 300
LONGER_WITH_REASON: dict[str, str] = {}
CODE_SUFFIXES = {".py", ".cu", ".cuh", ".cpp", ".h", ".js", ".css"}
MAX_REPOSITORY_BYTES = 10 * 2**20
MACHINE_PATH = re.compile(rb"(?<![\w.~*$}/])/(work|farm|root|home|tmp|Users)/[\w.]")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the stages under folder/quamba_export, with this repository's contracts."""
    command = [SCRIPTS / "lint-imports", "--config", ROOT / "pyproject.toml", "--no-cache", "--no-logo"]
    # a namespace package is searched in sys.path's order: the copy in the working directory goes first
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copied_stages(tmp_path: Path) -> Path:
    for stage in STAGES:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / stage, tmp_path / "quamba_export" / stage, ignore=ignore)
    return tmp_path


def test_import_arrows_hold(copied_stages: Path) -> None:
    result = lint_imports(copied_stages)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("runtime/errors.py", "from quamba_export.calib import config", "runtime imports nothing"),
        ("runtime/errors.py", "import torch", "runtime imports nothing"),
        (
            "runtime/errors.py",
            "def late():\n    from quamba_export.targets import target",
            "runtime imports nothing",
        ),
        (
            "plugins/common/quantization.py",
            "from quamba_export.calib import config",
            "plugins import nothing",
        ),
        ("targets/target.py", "from quamba_export.plugins import common", "targets import nothing"),
        ("calib/config.py", "from quamba_export.exporter import cli", "calib imports plugins"),
        ("exporter/cli.py", "from quamba_export.runtime import engine", "exporter imports of runtime only"),
    ],
)
def test_a_planted_import_breaks_its_contract(
    copied_stages: Path, module: str, planted: str, contract: str
) -> None:
    path = copied_stages / "quamba_export" / module
    path.write_text(f"{path.read_text()}\n{planted}\n")
    result = lint_imports(copied_stages)
    assert result.returncode != 0
    assert re.search(rf"^{contract}.* BROKEN", result.stdout, re.MULTILINE), result.stdout


def runtime_modules() -> list[str]:
    return [
        f"quamba_export.runtime.{path.stem}"
        for path in (ROOT / "runtime").glob("*.py")
        if path.stem != "__init__"
    ]


def import_seconds() -> tuple[float, float]:
    """Processor time that numpy, and then every module of the runtime, takes to import: shortest of 15 runs.

    Taken within the process, so that starting and ending Python, which differ more from one machine to
    another, are not in it; the first run writes the bytecode.
    """
    program = (
        "import time; start = time.process_time(); import numpy; middle = time.process_time(); "
        f"import {', '.join(runtime_modules())}; print(middle - start, time.process_time() - middle)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, check=True, capture_output=True, env=environment) for _ in range(15)]
    times = [tuple(map(float, run.stdout.split())) for run in runs]
    return min(numpy for numpy, _ in times), min(own for _, own in times)


def cpu_seconds(command: list[str], limit: float) -> float:
    """Shortest user + system time of up to 15 runs, stopping at the first below `limit`.

    Wall time would measure the machine's other processes too; processor time grows beside busy ones as well.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        if times[-1] < limit:
            break
    return min(times)


def test_runtime_imports_nothing_heavy() -> None:
    heavy = {
        "torch",
        "onnx",
        "transformers",
        "typer",
        "rich",
        "matplotlib",
        "sklearn",
        "polygraphy",
        "onnxruntime",
    }
    program = f"import sys, {', '.join(runtime_modules())}; print(sorted({heavy!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_runtime_imports_in_under_0_3_s() -> None:
    numpy, own = import_seconds()
    assert numpy + own < 0.3
    assert own < 0.8 * numpy  # measured 0.55; on a machine of any speed


def test_help_starts_in_under_half_a_second() -> None:
    assert cpu_seconds([str(SCRIPTS / "quamba-export"), "--help"], limit=0.5) < 0.5


def test_every_folder_with_code_is_a_listed_package() -> None:
    folders = {path.parent for stage in STAGES for path in (ROOT / stage).rglob("*.py")}
    found = {"quamba_export." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert sorted(PACKAGES) == sorted(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_import_mypy_and_the_checkout_see_the_same_file(package: str) -> None:
    from mypy.modulefinder import FindModuleCache, SearchPaths
    from mypy.options import Options

    link = ROOT / ".ns" / "quamba_export"
    if not link.exists():
        pytest.skip("no .ns/quamba_export link: `make check` makes it")
    options = Options()
    options.namespace_packages = True
    search = SearchPaths(python_path=(), mypy_path=(str(link.parent),), package_path=(), typeshed_path=())
    seen_by_mypy = FindModuleCache(search, fscache=None, options=options).find_module(package)
    assert isinstance(seen_by_mypy, str), seen_by_mypy
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    expected = ROOT.joinpath(*package.split(".")[1:], "__init__.py")
    assert Path(seen_by_mypy).samefile(expected)
    assert Path(spec.origin).samefile(expected)


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, or no git (apt-get install git)")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def test_repository_is_under_10_mib() -> None:
    assert sum(path.stat().st_size for path in tracked_files()) < MAX_REPOSITORY_BYTES


def test_no_tracked_file_names_a_machine_path() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match.group().decode()}"
        for path in tracked_files()
        if b"\0" not in (content := path.read_bytes())
        for match in MACHINE_PATH.finditer(content)
    ]
    assert found == []


def test_long_files_are_listed_with_a_reason() -> None:
    long = {
        str(path.relative_to(ROOT))
        for path in tracked_files()
        if path.suffix in CODE_SUFFIXES and len(path.read_text().splitlines()) > MAX_LINES
    }
    assert long == set(LONGER_WITH_REASON)
