"""`quamba-export serve` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from serve_process import COMMAND, serve_process
from tiny_recurrent import write_tiny_export


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_told_to_stop_and_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    export = write_tiny_export(tmp_path / "tiny")
    with serve_process(export, "--threads", "1", "--grace", "2", end=number) as (_, port):
        body = json.dumps({"model": "tiny", "prompt": "the", "max_tokens": 5}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body, headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            assert json.load(response)["usage"]["completion_tokens"] == 5


def test_off_loopback_it_does_not_start_without_a_token(tmp_path: Path) -> None:
    command = [*COMMAND, str(tmp_path), "--host", "0.0.0.0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "QUAMBA_SERVE_TOKEN" in result.stderr
