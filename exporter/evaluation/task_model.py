"""A language model as lm-eval asks for one: registered as `quamba`, on whatever engine the path runs with.

lm_eval is imported at the top: this file is imported where tasks are scored and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tokenizers import Tokenizer

from quamba_export.exporter.evaluation.evaluate import log_softmax, windows_a_call
from quamba_export.exporter.evaluation.language_models import LanguageModel, open_language_model, padded

MAX_BATCH = 32  # requests a call
MAX_LENGTH = 2048  # tokens of a request that are seen, its last
MAX_NEW_TOKENS = 256  # where a task says nothing

Pair = tuple[Any, list[int], list[int]]  # lm-eval's key, context, continuation


@register_model("quamba")
class TaskModel(TemplateLM):  # type: ignore[misc]
    """Log-likelihoods and greedy text of one model.

    path: what `quamba-export eval` takes; model: one that is open already.
    """

    def __init__(self, path: str = "", model: LanguageModel | None = None, **_: Any) -> None:
        super().__init__()
        self.model = model or open_language_model(path)
        self.words = Tokenizer.from_file(str(self.model.tokenizer_path))

    @property
    def eot_token_id(self) -> int:
        return self.model.eos_token_id

    @property
    def tokenizer_name(self) -> str:
        return str(self.model.tokenizer_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Without special tokens, as this project reads every text."""
        return list(self.words.encode(string, add_special_tokens=False).ids)

    def _loglikelihood_tokens(self, requests: list[Pair], **_: Any) -> list[tuple[float, bool]]:
        """Of each continuation behind its context: nats, and whether greedy decoding gives it."""
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        rows = [(*context, *continuation)[-MAX_LENGTH:] for _, context, continuation in requests]
        for batch in self._batches(rows):
            ids = padded([rows[k] for k in batch], self.eot_token_id)
            counts = [min(len(requests[k][2]), len(rows[k]) - 1) for k in batch]  # tokens that are scored
            first = min(len(rows[k]) - 1 - wanted for k, wanted in zip(batch, counts, strict=True))
            logits, _ = self.model.forward(ids, None, ids.shape[1] - first)
            for line, (k, wanted) in enumerate(zip(batch, counts, strict=True)):
                end = len(rows[k]) - 1 - first
                scores = log_softmax(logits[line, end - wanted : end])  # (wanted, V)
                scored = np.array(rows[k][len(rows[k]) - wanted :], np.int64)
                greedy = bool((scores.argmax(-1) == scored).all())
                found[k] = float(scores[np.arange(wanted), scored].sum(dtype=np.float64)), greedy
        return found

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Of whole texts, in windows of MAX_LENGTH; each begins with the last token of the one before."""
        totals = []
        for request in requests:
            ids = [self.eot_token_id, *self.tok_encode(request.args[0])]
            starts = range(0, len(ids) - 1, MAX_LENGTH - 1)
            windows = [ids[start : start + MAX_LENGTH] for start in starts]
            parts = self._loglikelihood_tokens([(None, window[:1], window[1:]) for window in windows])
            totals.append(sum(nats for nats, _ in parts))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy text of each, up to the first of its stop strings."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        stops = options.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        ids = self.tok_encode(context)[-MAX_LENGTH:] or [self.eot_token_id]
        logits, states = self.model.forward(np.array([ids], np.int64), None, 1)
        made: list[int] = []
        for _ in range(int(options.get("max_gen_toks", MAX_NEW_TOKENS))):
            made.append(int(logits[0, -1].argmax()))
            text = str(self.words.decode(made))
            ends = [text.index(stop) for stop in stops if stop in text]
            if ends or made[-1] == self.eot_token_id:
                return text[: min(ends)] if ends else str(self.words.decode(made[:-1]))
            logits, states = self.model.forward(np.array([[made[-1]]], np.int64), states)
        return str(self.words.decode(made))

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Numbers of rows of nearly one length, as many as memory for their logits allows."""
        order = sorted(range(len(rows)), key=lambda k: len(rows[k]))
        while order:
            longest = len(rows[order[-1]])
            at_once = windows_a_call("prefill", longest * self.model.vocab_size)
            size = min(MAX_BATCH, self.model.max_batch, at_once)
            yield order[-size:]
            del order[-size:]
