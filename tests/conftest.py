"""Fixtures that every folder of tests may use. Nothing here imports torch: runtime's tests run without it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# tiny tensors on shared cores: a second thread costs more than it gives
os.environ.setdefault("OMP_NUM_THREADS", "1")

HANDLERS_AT_THE_START = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
SHARED_MODELS = ("mamba1-docs-18m", "mamba2-docs-19m", "mamba2-docs-21m-g8")


@pytest.fixture(autouse=True)
def signals_as_at_the_start() -> Iterator[None]:
    """A command that is run in this process leaves its handlers; processes forked later would have them.

    Set before a test too: a fixture of its module, which comes before this one, may have run a command.
    """
    set_handlers_of_the_start()
    yield
    set_handlers_of_the_start()


def set_handlers_of_the_start() -> None:
    for number, handler in HANDLERS_AT_THE_START.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """The directory of the larger checkpoints; its texts are in ../data."""
    if "QUAMBA_TEST_MODELS" not in os.environ:
        pytest.skip("QUAMBA_TEST_MODELS is not set: point it to the directory of the larger checkpoints")
    return Path(os.environ["QUAMBA_TEST_MODELS"])


@pytest.fixture(params=SHARED_MODELS)
def shared_model(request: pytest.FixtureRequest, shared_models: Path) -> Path:
    """Each of the larger checkpoints in turn."""
    return shared_models / str(request.param)
