"""Target data files: the loader, a user's own file, and the refusal of a target that has none."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from refusals import refused

from quamba_export.exporter.plugin_build.library import ARCHITECTURES
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.targets.target import load_target, target_names, targets
from quamba_export.targets.target_file import Target, parse_target

WANTED = {"cpu", "orin-nano", "orin-nx", "agx-orin", "agx-thor", "rtx3090", "rtx4090", "rtx5090"}
WANTED |= {"l4", "a100", "h100", "h200"}
MINE = """
name = "my-gpu"
description = "a GPU of mine (sm_89)"
backend = "tensorrt"
sm = 89
memory_gb = 48
bandwidth_gb_per_s = 864.5
max_batch = 2
prefill_length = 128
"""


@pytest.mark.parametrize("name", target_names())
def test_every_data_file_loads_under_its_own_name(name: str) -> None:
    assert load_target(name).name == name


def test_the_devices_are_there_with_what_they_have() -> None:
    assert set(target_names()) == WANTED
    for target in targets():
        assert (target.backend == "tensorrt") == (target.name != "cpu")
        if target.backend == "tensorrt":
            assert f"sm_{target.sm}" in target.description
            assert target.software
        assert (target.jetpack > 0) == any("JetPack" in release.name for release in target.software)
    releases = {release.name: release for release in load_target("agx-orin").software}
    six = releases["JetPack 6.2"]
    assert (six.tensorrt, six.cuda, six.python, six.driver) == ("10.3", "12.6", "3.10", "540")
    assert releases["JetPack 7.2"].cuda == "13.2"


def test_what_is_called_compiled_is_compiled_for() -> None:
    for target in targets():
        if target.backend == "tensorrt":
            assert (target.tested == "no") == (target.sm not in ARCHITECTURES), target.name


def test_the_example_in_the_docs_is_a_target(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
    (tmp_path / "mine.toml").write_text(text.split("```toml\n")[1].split("```")[0])
    assert load_target(str(tmp_path / "mine.toml")).sm == 86


def test_other_names_of_a_target_are_taken() -> None:
    assert load_target("orin") == load_target("agx-orin")
    names = [name for target in targets() for name in (target.name, *target.aliases)]
    assert len(set(names)) == len(names)


def test_a_target_is_frozen() -> None:
    target = load_target("cpu")
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["thor", "toaster", "../cpu", ""])
def test_a_target_without_data_is_refused_in_words(name: str) -> None:
    with pytest.raises(QuambaError, match=f"no target is called '{name}'") as caught:
        load_target(name)
    assert caught.value.code is ExitCode.INCOMPATIBLE
    assert "cpu" in caught.value.allowed
    assert "`quamba-export targets`" in caught.value.fix


def test_the_nearest_target_is_named() -> None:
    """`targets show` and `search` take one too: the error is not of --target, or of building, alone."""
    with pytest.raises(QuambaError, match=r"did you mean orin-nano\?") as caught:
        load_target("orin-nanoo")
    assert not re.search("--target|build", str(caught.value))


def test_a_file_of_one_s_own_is_a_target(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    found = load_target(str(path))
    wanted = Target(
        "my-gpu",
        "a GPU of mine (sm_89)",
        "tensorrt",
        sm=89,
        memory_gb=48,
        bandwidth_gb_per_s=864.5,
        max_batch=2,
        prefill_length=128,
    )
    assert found == wanted


@pytest.mark.parametrize("name", ["h200", "orin"])
def test_a_file_may_not_take_a_target_s_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("my-gpu", name))
    with refused(f"the name '{name}' is taken", "rename it"):
        load_target(str(path))


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_target(str(tmp_path / "none.toml"))
    path = tmp_path / "large.toml"
    path.write_text("#" * (1 << 17))
    with refused("is too large"):
        load_target(str(path))


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("sm = 89", "", ("does not describe a target", "no key 'sm'")),
        ("sm = 89", "sm = 89\nsn = 1", ("does not describe a target", "key 'sn'")),
        ("sm = 89", "sm = 8.9", ("'sm' is not allowed", "75 to 999")),
        ("sm = 89", "sm = true", ("'sm' is not allowed", "True")),
        ("sm = 89", "sm = ", ("mine.toml is not valid TOML",)),
        ("memory_gb = 48", "memory_gb = nan", ("'memory_gb' is not allowed",)),
        ("bandwidth_gb_per_s = 864.5", "bandwidth_gb_per_s = 0", ("'bandwidth_gb_per_s'", "1 to 100000")),
        ('"tensorrt"', '"torch"', ("mine.toml", "key 'bandwidth_gb_per_s'")),
        ('"tensorrt"', '"onnxruntime"', ("key 'bandwidth_gb_per_s'",)),
        ('"my-gpu"', '"My GPU"', ("'name' is not allowed", "small letters")),
        ("sm = 89", 'sm = 89\naliases = "gpu"', ("'aliases'", "a list of names")),
        ("sm = 89", "sm = 89\njetpack = 5", ("'jetpack'", "6 to 7")),
        ("sm = 89", 'sm = 89\ntested = "surely"', ("'tested'", "run or compiled or no")),
        ("sm = 89", 'sm = 89\nsoftware = [{name = "1"}]', ("'software'", "the keys name, tensorrt")),
        ("sm = 89", "sm = 89\nsoftware = 3", ("'software'", "[[software]]")),
        ("a GPU of mine (sm_89)", "a\\nb", ("'description'", "printable")),
    ],
)
def test_what_describes_no_target_is_refused_by_its_key(old: str, new: str, parts: tuple[str, ...]) -> None:
    with refused(*parts):
        parse_target(MINE.replace(old, new), "mine.toml")
