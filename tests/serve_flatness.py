"""Memory of a server over many requests: `python tests/serve_flatness.py --requests 100000`.

A server process of its own with a tiny model in ONNX Runtime, as a user starts it; the resident memory of
that process is read as requests go by. Exit 0 if the last fifth has no more than the second by `--allowed`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from serve_process import serve_process
from serve_traffic import traffic
from tiny_recurrent import write_tiny_export


def resident_mb(process: int) -> float:
    """VmRSS of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--allowed", type=float, default=2.0, help="MB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        export = write_tiny_export(Path(folder) / "tiny")
        flags = ["--threads", "1", "--max-sessions", "16"]
        with serve_process(export, *flags) as (server, port):
            started, seen, each = time.monotonic(), [], max(100, options.requests // 100)
            for sent in traffic(port, options.requests, each=each):
                seen.append(resident_mb(server.pid))
                if sent % (10 * each) == 0 or sent == options.requests:
                    print(
                        f"{sent:7d} requests {time.monotonic() - started:7.1f} s {seen[-1]:7.2f} MB",
                        flush=True,
                    )
        print("the server ended with 0")
    fifth = max(1, len(seen) // 5)
    grown = median(seen[-fifth:]) - median(seen[fifth : 2 * fifth])
    print(f"grown by {grown:.2f} MB from the second fifth to the last, {options.allowed} allowed")
    return int(grown > options.allowed)


if __name__ == "__main__":
    sys.exit(main())
