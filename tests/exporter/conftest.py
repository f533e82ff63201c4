from __future__ import annotations

import pytest
from tiny_flow import CONFIGS, Flow, run_flow


@pytest.fixture(scope="session", params=list(CONFIGS))
def flow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """A tiny model of each kind, made once."""
    return run_flow(tmp_path_factory.mktemp(request.param), request.param)
