"""The demo in one table: perplexity of every model before and after, from the JSON files `make demo` kept.

python ci/summary.py demo-out
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLUMNS = "{:<12} {:>9} {:>17} {:>17} {:>9} {:>7} {:>9} {:>9}"
HEAD = ("model", "float", "W8A8 prefill", "W8A8 decode", "KL", "top-1", "MB before", "after")


def row(folder: Path) -> tuple[str, ...]:
    """Perplexities, ratios to float, KL in nats a token, share of equal likeliest tokens, MB of weights."""
    before, prefill, decode = (
        json.loads((folder / f"eval-{name}.json").read_text()) for name in ("float", "prefill", "decode")
    )
    base = before["perplexity"]
    checkpoint, export = (
        json.loads((folder / f"inspect-{name}.json").read_text()) for name in ("checkpoint", "export")
    )
    return (
        folder.name,
        f"{base:.3f}",
        *(f"{after['perplexity']:.3f} (x {after['perplexity'] / base:.4f})" for after in (prefill, decode)),
        f"{prefill['kl']:.5f}",
        f"{prefill['top1_agreement']:.1%}",
        *(f"{sum(facts['bytes_by_group'].values()) / 1e6:.2f}" for facts in (checkpoint, export)),
    )


def main() -> None:
    print(COLUMNS.format(*HEAD))
    for folder in sorted(path.parent for path in Path(sys.argv[1]).glob("*/eval-float.json")):
        print(COLUMNS.format(*row(folder)))


if __name__ == "__main__":
    main()
