"""Target data files: the loader, and the refusal of a target that has none."""

import dataclasses

import pytest

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.targets.target import load_target, target_names


@pytest.mark.parametrize("name", target_names())
def test_every_data_file_loads_under_its_own_name(name: str) -> None:
    assert load_target(name).name == name


def test_a_target_is_frozen() -> None:
    target = load_target("cpu")
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", ["thor", "toaster", "../cpu", ""])
def test_a_target_without_data_is_refused_in_words(name: str) -> None:
    with pytest.raises(QuambaError, match="no bundle can be built for target") as caught:
        load_target(name)
    assert caught.value.code is ExitCode.INCOMPATIBLE
    assert "cpu" in caught.value.allowed
    assert "--target cpu" in caught.value.fix
