"""Where ONNX Runtime really ran the nodes of a graph: those without a kernel in a provider go to the CPU.

Read from its profile, which names the provider of every node that ran, in each version alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.manifest import Manifest
from quamba_export.runtime.ort_session import Provider


@dataclass(frozen=True)
class Placement:
    """What one provider ran of a decode step; bodies of Scan, which run once for one token, are counted."""

    provider: str
    nodes: int
    ops: dict[str, int]  # nodes by op type; Memcpy* are copies between host and device


def place_nodes(folder: Path, manifest: Manifest, provider: Provider, threads: int) -> list[Placement]:
    """Run one token of an export or CPU bundle; the providers by number of nodes."""
    from tempfile import TemporaryDirectory  # not for every import of the runtime

    model, states, vocab_size = folder / "model.onnx", manifest.states, manifest.vocab_size
    with TemporaryDirectory() as temporary:
        profile = Path(temporary) / "nodes"
        engine = OrtEngine(model, states, vocab_size, threads=threads, provider=provider, profile=profile)
        engine.run(np.zeros((1, 1), np.int64), engine.zero_states(1))
        events = json.loads(Path(engine.session.end_profiling()).read_text(encoding="utf-8"))
    return placements(events)


def placements(events: Iterable[Mapping[str, Any]]) -> list[Placement]:
    """The nodes that a profile's events tell of, by provider."""
    ops: dict[str, Counter[str]] = {}
    for event in events:
        facts = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in facts:
            ops.setdefault(facts["provider"], Counter())[facts["op_name"]] += 1
    found = [Placement(name, count.total(), dict(count.most_common())) for name, count in ops.items()]
    return sorted(found, key=lambda placement: -placement.nodes)
