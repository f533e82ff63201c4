"""What a server refuses to start with."""

from __future__ import annotations

from typing import Any

import pytest

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.serve.server import listening_socket
from quamba_export.runtime.serve.settings import Settings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "device.local", ""])
def test_off_loopback_a_token_is_required(host: str) -> None:
    with pytest.raises(QuambaError, match="whoever can reach this address") as error:
        Settings(host=host)
    assert error.value.code is ExitCode.USAGE
    Settings(host=host, token="0123456789abcdef")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_loopback_it_is_not(host: str) -> None:
    Settings(host=host)


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70_000},
        {"max_batch": 0},
        {"queue": -1},
        {"timeout": float("nan")},
        {"max_body": 10},
        {"token": "short"},
        {"token": ""},
        {"token": "é" * 20},
    ],
)
def test_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(QuambaError) as error:
        Settings(**wrong)
    assert error.value.code is ExitCode.USAGE


def test_a_port_that_is_taken_is_refused() -> None:
    with listening_socket(Settings(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(QuambaError, match=f"cannot listen on 127.0.0.1, port {port}"):
            listening_socket(Settings(port=port))
