"""Perplexity of a model on text, and how far its next-token distribution is from another model's.

Prefill scores whole windows in one call; a TensorRT engine scores each token by the prompt that ends before
it, as a device would. Decode steps token by token through the states as they are stored: what a coarse state
costs shows there and never in a whole window.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from quamba_export.exporter.console import Advance
from quamba_export.exporter.evaluation.language_models import Ids, LanguageModel, Logits
from quamba_export.runtime.errors import ExitCode, QuambaError

Mode = Literal["prefill", "decode"]
MAX_LOGITS = 1 << 22  # floats of logits of a call in prefill: 16 MiB, and what Ctrl-C waits for
MAX_BATCH = {"prefill": 1024, "decode": 64}  # windows a call
READ_AHEAD = 64  # tokens of a call of the float model beside decode


@dataclass(frozen=True)
class Evaluation:
    """The `--json` object of `eval`; the keys from `against` on are there only where they were asked for."""

    path: str
    kind: str
    engine: str
    qformat: str
    ssm_state_dtype: str
    mode: Mode
    window: int
    input_tokens: int
    tokens: int  # scored: every token but a window's first
    perplexity: float  # infinite (null in JSON) where no float holds it
    nats_per_token: float
    bits_per_byte: float | None  # bits of the scored tokens over the UTF-8 bytes of their text, if it has any
    ssm_input: str  # int8 but in studies (calib/model/scan_input.py)
    seconds: float  # of this model's calls
    tokens_per_second: float
    against: str | None = None
    against_perplexity: float | None = None
    kl: float | None = None  # KL(against || path), nats a token
    top1_agreement: float | None = None  # share of tokens
    cloze_passages: int | None = None
    cloze_accuracy: float | None = None  # share of passages (exporter/evaluation/cloze.py)
    cloze_standard_error: float | None = None  # of that share
    against_cloze_accuracy: float | None = None

    def present_fields(self) -> dict[str, Any]:
        """The fields that are set, for JSON."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass
class Distance:
    """How far next-token distributions are from another model's, summed over tokens."""

    tokens: int = 0
    kl: float = 0.0  # nats
    agreements: int = 0  # tokens for which both models find the same one likeliest

    def add(self, reference: Logits, candidate: Logits) -> None:
        """Add log-probabilities (n, V) of both models for the same tokens."""
        self.tokens += len(reference)
        self.kl += float((np.exp(reference) * (reference - candidate)).sum(dtype=np.float64))
        self.agreements += int((reference.argmax(-1) == candidate.argmax(-1)).sum())

    def __add__(self, other: Distance) -> Distance:
        return Distance(self.tokens + other.tokens, self.kl + other.kl, self.agreements + other.agreements)

    @property
    def mean_kl(self) -> float:
        """Nats a token; rounding may leave a sum just below the zero it stands for."""
        return max(0.0, self.kl / self.tokens)

    @property
    def agreement(self) -> float:
        """Share of the tokens."""
        return self.agreements / self.tokens


@dataclass
class Tally:
    """Sums over scored tokens."""

    tokens: int = 0
    nats: float = 0.0
    against_nats: float = 0.0
    seconds: float = 0.0
    distance: Distance = field(default_factory=Distance)

    def add(self, logits: Logits, targets: Ids, against: Logits | None) -> None:
        """Score logits (B, L, V) on targets (B, L); `against` are the other model's logits."""
        picked = np.arange(targets.size), targets.ravel()
        log_probs = log_softmax(logits)
        self.tokens += targets.size
        self.nats -= float(log_probs[picked].sum(dtype=np.float64))
        if against is not None:
            reference = log_softmax(against)
            self.against_nats -= float(reference[picked].sum(dtype=np.float64))
            self.distance.add(reference, log_probs)


def evaluate(
    model: LanguageModel,
    stream: Ids,
    *,
    window: int = 1024,
    mode: Mode = "prefill",
    against: LanguageModel | None = None,
    advance: Advance = lambda amount: None,
) -> Evaluation:
    """Score `model` on a token stream cut into contiguous windows, the last one as short as it comes.

    stream: (tokens,) int64, documents joined by the end-of-text id (calib.data.token_stream).
    Raises QuambaError: fewer than two tokens, different vocabularies, logits that are not finite (exit 9).
    """
    check(model, stream, against)
    tally = Tally()
    score = score_prefill if mode == "prefill" else score_decode
    most = min(scored.max_batch for scored in (model, against) if scored)
    for batch in batches(stream, window, min(most, windows_a_call(mode, window * model.vocab_size))):
        score(model, against, batch, tally)
        advance(batch.size)
    nats, bits = mean_nats(model, tally.nats, tally.tokens), tally.nats / math.log(2)
    text_bytes = scored_bytes(model, stream, window)
    scores: dict[str, Any] = {
        "perplexity": perplexity(nats),
        "nats_per_token": nats,
        "seconds": tally.seconds,
        "tokens_per_second": tally.tokens / tally.seconds,
    }
    if against is not None:
        scores["against_perplexity"] = perplexity(mean_nats(against, tally.against_nats, tally.tokens))
        scores |= {"kl": tally.distance.mean_kl, "top1_agreement": tally.distance.agreement}
    return Evaluation(
        path=model.path,
        kind=model.kind,
        engine=model.engine,
        qformat=model.qformat,
        ssm_state_dtype=model.ssm_state_dtype,
        ssm_input=model.ssm_input,
        mode=mode,
        window=window,
        input_tokens=len(stream),
        tokens=tally.tokens,
        bits_per_byte=bits / text_bytes if text_bytes else None,
        against=against.path if against else None,
        **scores,
    )


def mean_nats(model: LanguageModel, nats: float, tokens: int) -> float:
    """Nats a token; raises QuambaError (exit 9) where the logits were not finite."""
    if not math.isfinite(nats):
        raise QuambaError(
            f"{model.path} gives logits that are not finite",
            found=f"a sum of {nats} nats over {tokens} tokens",
            fix="look for the first layer that is wrong with `quamba-export compare`",
            code=ExitCode.NUMERIC,
        )
    return nats / tokens


def check_length(stream: Ids) -> None:
    """Raise QuambaError where there is nothing to score."""
    if len(stream) < 2:
        raise QuambaError(
            "the text is too short to score",
            found=f"{len(stream)} tokens",
            allowed="2 or more: the first of a window is never scored",
        )


def check(model: LanguageModel, stream: Ids, against: LanguageModel | None) -> None:
    check_length(stream)
    if against is not None and against.vocab_size != model.vocab_size:
        raise QuambaError(
            f"{model.path} and {against.path} have different vocabularies",
            found=f"{model.vocab_size} and {against.vocab_size} tokens",
            allowed="two versions of one model",
        )


def windows_a_call(mode: Mode, logits_a_window: int) -> int:
    """In prefill as many as memory for their logits allows."""
    most = MAX_LOGITS // logits_a_window if mode == "prefill" else MAX_BATCH[mode]
    return max(1, min(most, MAX_BATCH[mode]))


def batches(stream: Ids, window: int, size: int) -> Iterator[Ids]:
    """Contiguous windows as (B, window) arrays of at most `size` rows, then what is left as (1, rest)."""
    whole = len(stream) // window
    for start in range(0, whole, size):
        stop = min(start + size, whole)
        yield stream[start * window : stop * window].reshape(-1, window)
    rest = stream[whole * window :]
    if len(rest) >= 2:
        yield rest.reshape(1, -1)


def score_prefill(model: LanguageModel, against: LanguageModel | None, batch: Ids, tally: Tally) -> None:
    """One call for whole windows, batch (B, L)."""
    inputs, targets = batch[:, :-1], batch[:, 1:]
    started = time.perf_counter()
    logits, _ = model.forward(inputs, None)  # (B, L-1, V)
    tally.seconds += time.perf_counter() - started
    tally.add(logits, targets, against.forward(inputs, None)[0] if against else None)


def score_decode(model: LanguageModel, against: LanguageModel | None, batch: Ids, tally: Tally) -> None:
    """A call a token, windows side by side, batch (B, L); the other model steps along.

    A float one reads ahead.
    """
    ahead = READ_AHEAD if against and against.is_float else 1
    last = batch.shape[1] - 1
    states = others = other_states = None
    for position in range(last):
        token, target = batch[:, position : position + 1], batch[:, position + 1 : position + 2]  # (B, 1)
        started = time.perf_counter()
        logits, states = model.forward(token, states)  # (B, 1, V)
        tally.seconds += time.perf_counter() - started
        behind = position % ahead
        if against and behind == 0:
            piece = batch[:, position : min(position + ahead, last)]
            others, other_states = against.forward(piece, other_states)  # (B, ahead, V)
        tally.add(logits, target, None if others is None else others[:, behind : behind + 1])


def perplexity(nats_per_token: float) -> float:
    """exp of it; infinite beyond the largest float."""
    return math.exp(nats_per_token) if nats_per_token < math.log(sys.float_info.max) else math.inf


def log_softmax(logits: Logits) -> Logits:
    """(..., V) -> natural logarithms of the probabilities as rows (n, V)."""
    flat = logits.reshape(-1, logits.shape[-1])
    shifted = flat - flat.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    return np.asarray(shifted - np.log(total).astype(np.float32))


def scored_bytes(model: LanguageModel, stream: Ids, window: int) -> int:
    """UTF-8 bytes of the text behind the scored tokens; the end-of-text id stands for none.

    A byte-level token is its bytes, also where a window cuts a character; others are counted as decoded.
    """
    from tokenizers import Tokenizer, decoders

    tokenizer = Tokenizer.from_file(str(model.tokenizer_path))
    pieces = [stream[start + 1 : start + window] for start in range(0, len(stream), window)]
    texts = [piece[piece != model.eos_token_id].tolist() for piece in pieces]
    if not isinstance(tokenizer.decoder, decoders.ByteLevel):
        return sum(len(tokenizer.decode(ids).encode()) for ids in texts)
    added = {id: len(token.content.encode()) for id, token in tokenizer.get_added_tokens_decoder().items()}
    size = [
        len(tokenizer.id_to_token(id) or "") for id in range(tokenizer.get_vocab_size())
    ]  # a character a byte
    return sum(added.get(id, size[id]) for ids in texts for id in ids)
