"""The whole way on the larger trained checkpoints: accuracy of W8A8, and ONNX Runtime against the reference.

Needs QUAMBA_TEST_MODELS, and the texts in ../data beside it. docs/accuracy.md has the figures of a full run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quamba_export.calib.calibrate import calibrate
from quamba_export.calib.checkpoints.checkpoint import load_checkpoint
from quamba_export.calib.data import token_stream
from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.calib.model.quantized_model import QuantizedModel
from quamba_export.exporter.bundle.build import build_bundle
from quamba_export.exporter.evaluation.evaluate import Mode, evaluate
from quamba_export.exporter.evaluation.language_models import LanguageModel, open_language_model
from quamba_export.exporter.graph.onnx_export import export_onnx
from quamba_export.runtime.bundle import open_bundle
from quamba_export.runtime.engine import Engine
from tests.conftest import SHARED_MODELS

PROMPTS, PROMPT_LENGTH, STEPS = 3, 48, 256
WINDOW = 512
# tokens: each costs ONNX Runtime the same, however many are side by side
SCORED = {"prefill": 2048, "decode": 1024}
MAX_KL = 0.005  # nats a token; measured 0.003
NEAR_TIE = 1e-3  # a difference of the two largest logits below this is named, not counted

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Quantized:
    """One shared model after calibrate, export and build --target cpu."""

    name: str
    checkpoint: LanguageModel
    reference: QuantizedModel
    bundle: LanguageModel
    engine: Engine  # of the bundle
    validation: Path


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in SHARED_MODELS]
)
def quantized(
    request: pytest.FixtureRequest, shared_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Quantized:
    folder = tmp_path_factory.mktemp(str(request.param))
    texts = shared_models.parent / "data"
    checkpoint = load_checkpoint(shared_models / str(request.param))
    calibration = calibrate(checkpoint, texts / "calibration.txt", calib_size=8, calib_seqlen=512)
    reference = quantize_model(checkpoint, calibration)
    export = export_onnx(reference, checkpoint, calibration, folder / "export")
    build_bundle(export, "cpu", folder / "bundle")
    return Quantized(
        name=str(request.param),
        checkpoint=open_language_model(str(checkpoint.path)),
        reference=reference,
        bundle=open_language_model(str(folder / "bundle")),
        engine=open_bundle(folder / "bundle").engine,
        validation=texts / "validation.txt",
    )


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_perplexity_is_within_one_percent_of_float(quantized: Quantized, mode: Mode) -> None:
    """And the distributions are near, which fewer tokens show than a perplexity needs."""
    stream = validation_tokens(quantized, SCORED[mode])
    found = evaluate(quantized.bundle, stream, window=WINDOW, mode=mode, against=quantized.checkpoint)
    before, kl = found.against_perplexity, found.kl
    assert before is not None
    assert kl is not None
    print(f"{quantized.name} {mode}: {before:.4f} -> {found.perplexity:.4f}, KL {kl:.5f}")
    assert found.tokens == SCORED[mode] // WINDOW * (WINDOW - 1)
    assert found.perplexity <= 1.01 * before
    assert kl <= MAX_KL


def test_onnx_runtime_writes_the_tokens_of_the_reference(quantized: Quantized) -> None:
    """Greedy decoding, 3 prompts of 48 tokens, 256 steps: the same token at every step."""
    prompts = validation_tokens(quantized, PROMPTS * 1000).reshape(PROMPTS, 1000)[:, :PROMPT_LENGTH]
    expected, margins = greedy_reference(quantized.reference, prompts)
    found = greedy_runtime(quantized.engine, prompts)
    for row in range(PROMPTS):
        differs = np.flatnonzero(found[row] != expected[row])
        if differs.size and margins[row, differs[0]] < NEAR_TIE:
            print(f"prompt {row}: a tie of {margins[row, differs[0]]:.1e} at step {differs[0]}")
        else:
            assert not differs.size, f"prompt {row} parts at step {differs[0]}"


def test_however_a_prompt_is_cut_the_states_are_the_same_bits(quantized: Quantized) -> None:
    """Whole, in pieces of whole chunks of the scan, one by one where there is no chunk; the logits differ by
    the order of the head's fp32 sums.
    """
    engine, ids = quantized.engine, validation_tokens(quantized, 160)[None]
    for length, cuts in ((160, [64]), (160, [128, 131]), (63, [31, 40]), (63, list(range(1, 63)))):
        same_however_cut(engine, ids[:, :length], cuts)


def same_however_cut(engine: Engine, ids: NDArray[np.int64], cuts: list[int]) -> None:
    whole_logits, whole = engine.run(ids, engine.zero_states(1))
    states = engine.zero_states(1)
    for piece in np.split(ids, cuts, axis=1):
        logits, states = engine.run(piece, states)
    np.testing.assert_allclose(logits, whole_logits, rtol=0, atol=1e-4)
    for name, state in whole.items():
        np.testing.assert_array_equal(states[name], state, err_msg=name)


def validation_tokens(quantized: Quantized, count: int) -> NDArray[np.int64]:
    """The first tokens of the validation text."""
    return token_stream(quantized.validation, quantized.bundle.tokenizer_path, 0, limit=count)


def greedy_reference(
    model: QuantizedModel, prompts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Tokens (3, 256) and how far the two largest logits were apart at each."""
    ids, states, tokens, margins = torch.from_numpy(prompts), None, [], []
    for _ in range(STEPS):
        logits, states = model.run(ids, states, num_logits=1)
        top = logits[:, -1].topk(2)
        ids = top.indices[:, :1]
        tokens.append(ids)
        margins.append(top.values[:, 0] - top.values[:, 1])
    return torch.cat(tokens, dim=1).numpy(), torch.stack(margins, dim=1).numpy()


def greedy_runtime(engine: Engine, prompts: NDArray[np.int64]) -> NDArray[np.int64]:
    ids, states, tokens = prompts, engine.zero_states(len(prompts)), []
    for _ in range(STEPS):
        logits, states = engine.run(ids, states)
        ids = logits[:, -1].argmax(-1)[:, None]
        tokens.append(ids)
    return np.concatenate(tokens, axis=1)
