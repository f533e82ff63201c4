"""One model in TensorRT against ONNX Runtime on the CPU: states, logits, and times.

    python -m quamba_export.exporter.tensorrt.check export/ [--plugins libquamba_plugins.so]
    python -m quamba_export.exporter.tensorrt.check export/ --bundle bundle/

Builds both engines, or takes those of a bundle, in whatever TensorRT is installed here, the lean runtime too.
Feeds real text as a whole, in pieces and token by token, for one sequence and for three, and prints TTFT and
TPOT. Exit 9 where anything differs.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from quamba_export.exporter.cli import leave_with_code
from quamba_export.exporter.plugin_build.library import plugin_library
from quamba_export.exporter.speed.gpu_speed import milliseconds
from quamba_export.exporter.tensorrt.build import BuildOptions, engines_from_export, profiles_for
from quamba_export.exporter.tensorrt.engine_comparison import compare, compare_positions
from quamba_export.runtime.bundle import open_tokenizer
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine import Engine, Ids, prefill
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.engine_tensorrt import TrtEngine, load_engine, open_engine
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.manifest import Manifest, StateTensor, read_manifest

PROMPT, STEPS, MAX_BATCH, CHUNK = 100, 64, 4, 512
GREEDY_PROMPT, GREEDY_STEPS, GREEDY_SHARE = 48, 256, 0.95
TEXT = Path(__file__).resolve().parents[2] / "embedded" / "validation.txt"


@dataclass
class Report:
    """Lines as they come, and how many of them tell of a difference."""

    failures: list[str] = field(default_factory=list)

    def compare(self, engine: TrtEngine, reference: Engine, ids: Ids) -> None:
        """Feed ids (B, PROMPT + STEPS) to both."""
        longest = engine.record.prefill_length
        for finding in compare(engine, reference, ids, PROMPT, longest):
            self.line(finding.what, finding.good, finding.found)
        finding = compare_positions(engine, reference, ids[:, :PROMPT], longest)
        self.line(finding.what, finding.good, finding.found)

    def line(self, what: str, good: bool, detail: str) -> None:
        print(f"{'ok  ' if good else 'FAIL'}  {what:<44} {detail}", flush=True)
        if not good:
            self.failures.append(what)


def main(
    export: Annotated[Path, typer.Argument(help="An export/ directory.")],
    plugins: Annotated[Path | None, typer.Option(help="libquamba_plugins.so; made here if left out.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle made of it, to check instead of building.")
    ] = None,
    text: Annotated[Path, typer.Option(help="Text to feed.")] = TEXT,
    prompts: Annotated[int, typer.Option(help="Prompts to continue greedily for 256 steps with both.")] = 0,
    threads: Annotated[int, typer.Option(help="Of ONNX Runtime; 0: as many as it likes.")] = 0,
) -> None:
    """Build, compare, time."""
    manifest, report = read_manifest(export), Report()
    if bundle is not None:
        engine = open_engine(bundle.joinpath, read_manifest(bundle))
    else:
        options = BuildOptions(plugins or plugin_library([Cuda().sm]))
        engine = built_engine(export, manifest.states, manifest.vocab_size, options, MAX_BATCH)
    reference = OrtEngine(export / "model.onnx", manifest.states, manifest.vocab_size, threads=threads)
    tokens = read_tokens(export, manifest, text)
    for batch in (1, 3):
        ids = np.stack([tokens[row * 50 : row * 50 + PROMPT + STEPS] for row in range(batch)])
        report.compare(engine, reference, ids)
    if prompts:
        compare_greedy(engine, reference, tokens, prompts, report)
    show_times(engine, tokens)
    if report.failures:
        raise typer.Exit(ExitCode.NUMERIC)


def built_engine(
    export: Path, states: tuple[StateTensor, ...], vocab_size: int, options: BuildOptions, max_batch: int
) -> TrtEngine:
    """Both engines of export/, built and loaded; nothing of them stays on the disk."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        record = engines_from_export(export, folder, profiles_for(max_batch, CHUNK), options)
        return load_engine(folder.joinpath, record, states, vocab_size, Cuda())


def read_tokens(export: Path, manifest: Manifest, text: Path) -> Ids:
    """At least 1,024 ids of the text."""
    content = text.read_text(encoding="utf-8")[:20000]
    ids = open_tokenizer(export.joinpath, manifest).encode(content, add_special_tokens=False).ids
    return np.array(ids, np.int64)


def compare_greedy(engine: Engine, reference: Engine, tokens: Ids, prompts: int, report: Report) -> None:
    """Continue prompts of 48 tokens for 256 steps with both engines, one after the other."""
    starts = np.linspace(0, len(tokens) - GREEDY_PROMPT, prompts).astype(int)
    same = 0
    for start in starts:
        prompt = tokens[None, start : start + GREEDY_PROMPT]
        same += int(np.array_equal(greedy(engine, prompt), greedy(reference, prompt)))
    wanted = f"greedy, {GREEDY_STEPS} steps of {prompts} prompts"
    report.line(wanted, same >= GREEDY_SHARE * prompts, f"the same tokens for {same}/{prompts}")


def greedy(engine: Engine, prompt: Ids) -> Ids:
    """The likeliest tokens (steps,) behind prompt (1, L)."""
    logits, states = prefill(engine, prompt)
    found = [logits[:, -1].argmax(-1)]
    while len(found) < GREEDY_STEPS:
        tokens, states = engine.next_tokens(found[-1][:, None], states)
        found.append(tokens)
    return np.concatenate(found)


def show_times(engine: TrtEngine, tokens: Ids) -> None:
    """TTFT of 512 tokens and TPOT of greedy steps, one sequence, in ms: host to host through the engine."""
    prompt = tokens[None, :CHUNK]
    _, states = prefill(engine, prompt)

    def first_token() -> None:
        nonlocal states
        _, states = engine.run(prompt, states)

    token = prompt[:, :1]

    def next_token() -> None:
        nonlocal states, token
        chosen, states = engine.next_tokens(token, states)
        token = chosen[:, None]

    print(f"TTFT({CHUNK})  {milliseconds(first_token, 30):.3f} ms  (batch 1, median of 30)")
    print(f"TPOT       {milliseconds(next_token, 300):.4f} ms  (batch 1, median of 300)", flush=True)


if __name__ == "__main__":
    leave_with_code(lambda: typer.run(main))
