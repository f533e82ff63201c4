"""What every built engine passes before its bundle is written: ONNX Runtime's results on real tokens.

TensorRT's parser and builder say nothing where a graph computes nonsense; only numbers tell.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quamba_export.exporter.console import say
from quamba_export.exporter.tensorrt.engine_comparison import Finding, compare
from quamba_export.runtime.bundle import open_tokenizer
from quamba_export.runtime.engine import Engine, Ids
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest

FEEDS = ((1, 100, 32), (3, 24, 8))  # sequences, tokens of the prompt, of each after it: minutes at 2.7b
SHIFT = 50  # tokens between the beginnings of a batch's sequences
PROBE = """\
The lighthouse keeper kept two books. In the first one he wrote down what the regulations asked for: the
hour at which the lamp was lit, the oil it burned, the wind, the height of the sea, and the ships that
passed. In the second he wrote what nobody had asked for. On the 14th of March 1887 a swallow came through
the open window, sat on the brass rail for 35 minutes, and left towards the south-west. Two days later the
fog was so thick that he could not see his own hands; he rang the bell every ninety seconds until morning,
and counted 412 strokes. "If someone heard it," he noted, "they did not tell me; if nobody did, it was good
exercise." His daughter, who had learned to read from these pages, asked him once why he bothered. He
thought about the question for a long time. A light, he said at last, is a promise to people whom you will
never meet. You cannot know whether it was kept unless you write down every evening that it was. She
laughed, but from then on she wrote a third book, in which she corrected the other two: the swallow had been
a martin, the strokes were 421, and the soup, on most days, was better than he admitted. When the station
was closed, the three of them were put into a box, and the box went to the harbour office, where a clerk
with nothing else to do compared them line by line and found them all correct.
"""


def check_engine(engine: Engine, export: Path, manifest: Manifest, max_batch: int, longest: int) -> None:
    """Compare with export/'s model: prefill, prefill in pieces and decode, one sequence and several.

    manifest: export/'s; longest: tokens of the engine's longest call. Says on stderr what was compared.
    Raises QuambaError (exit 9) at the first difference, naming the layer and state that it begins in.
    """
    reference = OrtEngine(export / "model.onnx", manifest.states, manifest.vocab_size)
    tokens = probe_ids(export, manifest)
    for batch, prompt, steps in FEEDS:
        rows = [tokens[row * SHIFT : row * SHIFT + prompt + steps] for row in range(min(batch, max_batch))]
        for finding in compare(engine, reference, np.stack(rows), prompt, longest):
            say(f"gate: {finding.what}: {finding.found}")
            if not finding.good:
                raise refusal(finding)


def probe_ids(export: Path, manifest: Manifest) -> Ids:
    """Ids (n,) for the largest batch: PROBE in the export's tokenizer, then random ones where it is short."""
    wanted = max((batch - 1) * SHIFT + prompt + steps for batch, prompt, steps in FEEDS)
    read = "tokenizer.json" in manifest.files
    text = (
        open_tokenizer(export.joinpath, manifest).encode(PROBE, add_special_tokens=False).ids if read else []
    )
    drawn = np.random.default_rng(0).integers(0, manifest.vocab_size, wanted)
    return np.concatenate([np.array(text, np.int64), drawn])[:wanted]


def refusal(finding: Finding) -> QuambaError:
    """The error for an engine that computes something else."""
    layer = finding.state.rpartition(".")[2]
    where = f"layer {layer} ({finding.state})" if finding.state else "the head (all states are equal)"
    return QuambaError(
        f"the engines do not compute what the export computes, from {where} on; no bundle was written",
        found=f"{finding.what}: {finding.found}",
        allowed=f"{finding.allowed}, against ONNX Runtime",
        fix="report it with these lines; `--target cpu` makes a bundle that ONNX Runtime runs",
        code=ExitCode.NUMERIC,
    )
