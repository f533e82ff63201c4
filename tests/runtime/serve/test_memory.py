"""A server that lives long: nothing of a request stays behind.

tests/serve_flatness.py is the long run, in megabytes of a process of its own; here the interpreter's blocks
are counted, of which every Python object takes one or two.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time

import pytest
from serve_traffic import traffic
from served import Served, serving

from quamba_export.runtime.serve.meter import Meter


def blocks_a_request(served: Served, requests: int) -> float:
    """Blocks more in use a request, in the quarter that left least: caches fill once, leaks go on."""
    counts = []
    for _ in traffic(served.port, requests, each=requests // 4):
        served.engine.calls.clear()  # the test's own
        wait_for_closed_connections(served)
        gc.collect()
        counts.append(sys.getallocatedblocks())
    grown = (later - earlier for earlier, later in itertools.pairwise(counts))
    return min(grown) / (requests / 4)


def wait_for_closed_connections(served: Served) -> None:
    end = time.monotonic() + 5
    while served.server.server_state.connections and time.monotonic() < end:
        time.sleep(0.01)


def test_many_requests_leave_nothing_behind() -> None:
    with serving(max_sessions=16) as served:
        assert blocks_a_request(served, 1200) < 0.5


def test_a_leak_of_two_objects_a_request_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    answered = Meter.answered

    def leaking(self: Meter, path: str, status: int) -> None:
        kept.append((path, [status]))
        answered(self, path, status)

    monkeypatch.setattr(Meter, "answered", leaking)
    with serving(max_sessions=16) as served:
        assert blocks_a_request(served, 300) > 1
