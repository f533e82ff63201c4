"""What an engine is: token ids and states in, logits and states out; and chunked prefill over any of them.

B batch, L length, V vocabulary (padded).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import StateTensor
from quamba_export.runtime.sampling import likeliest

CHUNK = 512  # tokens a call in prefill: memory stays that of one chunk, whatever the prompt's length
MAX_BATCH = 4096

Ids = NDArray[np.int64]
Logits = NDArray[np.float32]


class States(Mapping[str, NDArray[Any]]):
    """The recurrent states of B sequences after some tokens, held where the engine wants them.

    Reading `states["past_ssm_states.0"]` (B, ...) brings one tensor to the host, to save or compare it; it is
    valid until the states are used. `Engine.run` consumes the states it is given, because an engine may
    update them in place: use those it returns, and `fork()` before a call whose input is needed again.
    """

    batch: int

    @abstractmethod
    def fork(self) -> States:
        """A copy that lives on when these states are consumed."""


class Engine(Protocol):
    """Something that runs the model: ONNX Runtime on a CPU, TensorRT on a GPU, or numpy in a test.

    Classes that derive from this one choose the likeliest token on the host unless they say otherwise.
    """

    vocab_size: int

    def zero_states(self, batch: int) -> States:
        """The states of `batch` sequences before their first token."""
        ...

    def load_states(self, arrays: Mapping[str, NDArray[Any]]) -> States:
        """States with these values, every past_* tensor (B, ...) by name, in its dtype and shape."""
        ...

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, States]:
        """Advance B sequences by L >= 1 tokens, input_ids (B, L) within the vocabulary.

        Returns the logits of the last `num_logits` positions (B, num_logits, V) fp32, and the states after
        the last token; consumes `states`.
        """
        ...

    def next_tokens(self, input_ids: Ids, states: States) -> tuple[Ids, States]:
        """`run`, and of the last position's logits the likeliest token of every sequence, (B,).

        An engine may choose where its logits are, so that they need not come to the host. Raises QuambaError
        (exit 9) where the largest logit of a sequence is not finite.
        """
        logits, after = self.run(input_ids, states)
        return likeliest(logits[:, -1]), after


def prefill(
    engine: Engine,
    input_ids: ArrayLike,
    states: States | None = None,
    *,
    num_logits: int = 1,
    chunk: int = CHUNK,
) -> tuple[Logits, States]:
    """Feed sequences of any length L >= 1, input_ids (B, L), in chunks that carry the states along.

    states: what came before, consumed; None starts from zero. Returns the logits of the last `num_logits` <=
    L positions (B, num_logits, V) and the states after the last token. Raises QuambaError for ids outside the
    vocabulary.
    """
    ids = checked_ids(input_ids, engine.vocab_size)
    batch, length = ids.shape
    if not 1 <= num_logits <= length:
        raise QuambaError(
            "prefill cannot give that many logits", found=str(num_logits), allowed=f"1 to {length}"
        )
    states = engine.zero_states(batch) if states is None else states
    kept: list[Logits] = []
    for start in range(0, length, chunk):
        piece = ids[:, start : start + chunk]  # (B, l)
        wanted = max(0, start + piece.shape[1] - max(start, length - num_logits))
        logits, states = engine.run(piece, states, max(1, wanted))
        kept += [logits] if wanted else []
    return (kept[0] if len(kept) == 1 else np.concatenate(kept, axis=1)), states


def checked_ids(input_ids: ArrayLike, vocab_size: int) -> Ids:
    """The ids as an array (B, L) int64. Raises QuambaError naming the first id outside."""
    ids = np.asarray(input_ids)
    if ids.ndim != 2 or ids.size == 0 or not np.issubdtype(ids.dtype, np.integer):
        found = f"shape {ids.shape}, {ids.dtype}"
        raise QuambaError(
            "token ids must be a batch of sequences", found=found, allowed="(B, L) integers, L >= 1"
        )
    outside = (ids < 0) | (ids >= vocab_size)
    if outside.any():
        row, position = np.argwhere(outside)[0]
        raise QuambaError(
            f"token id {ids[row, position]} is not in the vocabulary (position {position} of sequence {row})",
            found=str(ids[row, position]),
            allowed=f"0 to {vocab_size - 1}",
            fix="use the tokenizer.json that belongs to this model",
        )
    return ids.astype(np.int64, copy=False)


def stack_states(engine: Engine, parts: list[States]) -> States:
    """The states of several batches as one batch, in order. A single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    return engine.load_states({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def batch_of_states(arrays: Mapping[str, NDArray[Any]], table: Sequence[StateTensor]) -> int:
    """B of the arrays to be loaded as states. Raises QuambaError naming the first that is not of `table`."""
    names = [state.past for state in table]
    if set(arrays) != set(names):
        odd = sorted(set(arrays) ^ set(names))
        raise QuambaError("these are not the states of this model", found=odd[0], allowed=f"{names[0]}, ...")
    batch: int = arrays[names[0]].shape[0]
    for state in table:
        array, shape = arrays[state.past], (batch, *state.shape)
        if array.shape != shape or array.dtype != state.dtype:
            raise QuambaError(
                f"state '{state.past}' does not fit this model",
                found=f"{array.dtype} {array.shape}",
                allowed=f"{state.dtype} {shape}",
            )
    return batch


def checked_batch(batch: int) -> int:
    if not 1 <= batch <= MAX_BATCH:
        raise QuambaError(
            "wrong batch size", found=str(batch), allowed=f"1 to {MAX_BATCH}", code=ExitCode.USAGE
        )
    return batch
