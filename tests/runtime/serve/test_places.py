"""How many sequences a bundle's engine takes."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
from served import tiny_bundle

from quamba_export.runtime.engine_record import EngineRecord
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest
from quamba_export.runtime.serve.places import places_for


class Record:
    """What is read of an engine's record here."""

    def __init__(self, max_batch: int) -> None:
        self.max_batch = max_batch


def tensorrt(max_batch: int) -> Manifest:
    return replace(tiny_bundle().manifest, engine=cast(EngineRecord, Record(max_batch)))


@pytest.mark.parametrize(("most", "wanted", "places"), [(1, None, 1), (8, None, 4), (8, 8, 8), (2, 1, 1)])
def test_the_engine_decides_where_nothing_is_wanted(most: int, wanted: int | None, places: int) -> None:
    assert places_for(tensorrt(most), wanted) == places
    assert places_for(tiny_bundle().manifest, wanted) == (wanted or 4)


@pytest.mark.parametrize("wanted", [0, 3])
def test_more_than_the_engine_takes_is_refused(wanted: int) -> None:
    with pytest.raises(QuambaError, match="not what this bundle takes") as error:
        places_for(tensorrt(2), wanted)
    assert (error.value.allowed, error.value.code) == ("1 to 2", ExitCode.USAGE)


def test_pycuda_is_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUAMBA_CUDA_BACKEND", "pycuda")
    with pytest.raises(QuambaError, match="needs cuda-python") as error:
        places_for(tensorrt(2), None)
    assert error.value.code is ExitCode.INCOMPATIBLE
    assert places_for(tiny_bundle().manifest, None) == 4
