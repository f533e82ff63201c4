"""The sampler against transformers' filters, its determinism, and its borders."""

import numpy as np
import pytest

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.sampling import Sampler, Sampling, kept_tokens, penalized

VOCAB = 97


def some_logits(seed: int = 0, size: int = VOCAB) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * 4).astype(np.float32)


def test_greedy_takes_the_largest_and_of_equals_the_lowest_id() -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[[5, 9]] = 1
    assert Sampler(Sampling(), VOCAB).choose(logits) == 5


CASES = [
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "repetition_penalty": 1.5},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 2.0, "top_k": 50, "top_p": 0.5, "min_p": 0.2, "repetition_penalty": 0.8},
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(5))
def test_the_distribution_is_that_of_transformers(case: dict[str, float], seed: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    logits_process = pytest.importorskip(
        "transformers.generation.logits_process",
        reason="transformers is not installed: pip install transformers",
    )
    sampling, logits, seen_ids = Sampling(**case), some_logits(seed), [3, 4, 3, 50]  # type: ignore[arg-type]
    steps = logits_process.LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        steps.append(logits_process.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    steps.append(logits_process.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(logits_process.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(logits_process.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        steps.append(logits_process.MinPLogitsWarper(sampling.min_p))
    wanted = steps(torch.tensor([seen_ids]), torch.tensor(logits)[None]).softmax(-1)[0].numpy()
    seen = np.zeros(VOCAB, bool)
    seen[seen_ids] = True
    tokens, probabilities = kept_tokens(penalized(logits, seen, sampling.repetition_penalty), sampling)
    found = np.zeros(VOCAB)
    found[tokens] = probabilities
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    sampler = Sampler(Sampling(temperature=1.0), 4)
    counts = np.bincount([sampler.choose(logits) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.125, 0.125], atol=0.03)


def test_the_same_seed_draws_the_same_tokens_and_rows_differ() -> None:
    def draw(seed: int, row: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), VOCAB, row=row)
        return [sampler.choose(some_logits(step)) for step in range(40)]

    assert draw(7, 0) == draw(7, 0)
    assert draw(7, 0) != draw(8, 0)
    assert draw(7, 0) != draw(7, 1)


def test_ties_at_a_border_are_all_kept() -> None:
    logits = np.array([2, 1, 1, 1, 0], np.float32)
    tokens, _ = kept_tokens(logits, Sampling(temperature=1.0, top_k=2))
    assert tokens.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [1, 2, 50_280])
def test_any_vocabulary_size_and_extreme_settings(size: int) -> None:
    logits = some_logits(1, size)
    largest = int(logits.argmax())
    for sampling in (
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.0, top_p=1e-9),
        Sampling(temperature=1.0, min_p=1.0),
        Sampling(temperature=1e-6),
        Sampling(temperature=1.0, top_k=1 << 31, top_p=1e-9, min_p=0.5),
    ):
        assert Sampler(sampling, size).choose(logits) == largest


def test_chosen_tokens_and_the_prompt_are_penalized_once_each() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0), 4, prompt_ids=[0, 0, 0])
    logits = np.array([3.0, 2.0, 1.8, -1.0], np.float32)
    assert [sampler.choose(logits) for _ in range(3)] == [1, 2, 0]  # 1.5 2 1.8 | 1.5 1 1.8 | 1.5 1 0.9


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_a_numeric_error(bad: float) -> None:
    logits = some_logits()
    logits[11] = bad
    for sampling in (Sampling(), Sampling(temperature=1.0)):
        with pytest.raises(QuambaError, match="not finite") as caught:
            Sampler(sampling, VOCAB).choose(logits)
        assert caught.value.code is ExitCode.NUMERIC


def test_all_minus_infinity_is_a_numeric_error() -> None:
    with pytest.raises(QuambaError, match="not finite"):
        Sampler(Sampling(), VOCAB).choose(np.full(VOCAB, -np.inf, np.float32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", 1e-30),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_a_usage_error_by_flag(name: str, value: float) -> None:
    with pytest.raises(QuambaError, match=f"--{name.replace('_', '-')} ") as caught:
        Sampling(**{name: value})  # type: ignore[arg-type]
    assert caught.value.code is ExitCode.USAGE
