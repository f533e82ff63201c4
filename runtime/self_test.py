"""The self-test of a bundle: a fixed prompt, and the tokens that its model chose when the bundle was made.

`python -m quamba_export.runtime.self_test BUNDLE [JSON]` runs it on the device, before a deployment is
switched on, and prints one JSON object; JSON is another expectation than the manifest's: of a bundle built
there, what the export gave elsewhere. The tokens must be the same; the logits, floats, need not have the
same bits on another processor, so their digest is reported and decides nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.fields import Fields

if TYPE_CHECKING:
    from quamba_export.runtime.engine import Engine

PROMPT_TOKENS, CHOSEN_TOKENS, MAX_TOKENS = 16, 16, 256
STRIDE = 7919  # a prime: the prompt's ids lie all over the vocabulary


@dataclass(frozen=True)
class SelfTest:
    """What a model made of the fixed prompt."""

    prompt: tuple[int, ...]  # token ids
    tokens: tuple[int, ...]  # the likeliest ones after it, each fed back
    logits_sha256: str  # of the logits behind the prompt, (V,) fp32, little-endian


@dataclass(frozen=True)
class SelfTestResult:
    """The JSON object of the program."""

    digest: str  # sha256 of the manifest of the bundle that ran
    export: str  # digest of the export that it was built of
    same_bits: bool  # whether the logits are those of the build, too
    seconds: float  # to open the bundle and to run
    peak_bytes: int  # the largest resident size of the process


def parse_self_test(fields: Fields, vocab_size: int) -> SelfTest:
    """The manifest's record. Raises QuambaError (exit 3)."""
    record = SelfTest(
        prompt=fields.integers("prompt", 0, vocab_size - 1, MAX_TOKENS),
        tokens=fields.integers("tokens", 0, vocab_size - 1, MAX_TOKENS),
        logits_sha256=fields.digest("logits_sha256"),
    )
    fields.end()
    return record


def self_test_of(
    engine: Engine, prompt: tuple[int, ...] | None = None, count: int = CHOSEN_TOKENS
) -> SelfTest:
    """Run it: one prompt, then `count` tokens. Raises QuambaError (exit 9) for logits that are not finite."""
    import numpy as np

    from quamba_export.runtime.engine import prefill

    prompt = prompt or tuple(k * STRIDE % engine.vocab_size for k in range(PROMPT_TOKENS))
    logits, states = prefill(engine, [prompt])
    digest = sha256(logits[0, -1].astype("<f4").tobytes()).hexdigest()
    if not np.isfinite(logits[0, -1]).all():
        raise QuambaError("the self-test gave logits that are not finite", code=ExitCode.NUMERIC)
    ids = logits[:, -1].argmax(axis=-1).astype(np.int64)  # (B,)
    tokens = [int(ids[0])]
    while len(tokens) < count:
        ids, states = engine.next_tokens(ids[:, None], states)
        tokens.append(int(ids[0]))
    return SelfTest(prompt, tuple(tokens), digest)


def run_self_test(bundle: Path, expected: str = "", signer: Path | None = None) -> SelfTestResult:
    """Verify a bundle, run its self-test here and compare.

    expected: JSON as in the manifest, "" for the manifest's own; signer: see open_bundle. Raises
    QuambaError: exit 3 for a bundle without one, 9 for other tokens; and what open_bundle raises.
    """
    from quamba_export.runtime.bundle import open_bundle

    start = time.perf_counter()
    opened = open_bundle(bundle, require_signature=signer)
    wanted = opened.manifest.self_test
    if expected:
        fields = Fields.from_json(expected.encode(), "the expected self-test", fix="deploy again")
        wanted = parse_self_test(fields, opened.manifest.vocab_size)
    if wanted is None:
        raise QuambaError(
            f"{bundle} has no self-test",
            found="a bundle of an earlier release, or an export",
            allowed="a bundle that this release built",
            fix="make it anew: quamba-export build export/ --target ... -o bundle/",
        )
    found = self_test_of(opened.engine, wanted.prompt, len(wanted.tokens))
    if found.tokens != wanted.tokens:
        raise QuambaError(
            f"{bundle} computes something else here than where it was built",
            found=f"tokens {', '.join(map(str, found.tokens))}",
            allowed=f"tokens {', '.join(map(str, wanted.tokens))}, as where it was built",
            fix="build the bundle for this device, or report it with these lines",
            code=ExitCode.NUMERIC,
        )
    return SelfTestResult(
        digest=opened.manifest.digest,
        export=opened.manifest.export_digest,
        same_bits=found.logits_sha256 == wanted.logits_sha256,
        seconds=round(time.perf_counter() - start, 3),
        peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def main() -> None:
    """The program: exits with the code of runtime/errors.py, the error as JSON too."""
    try:
        signer = Path(sys.argv[3]) if len(sys.argv) > 3 else None
        print(json.dumps(asdict(run_self_test(Path(sys.argv[1]), "".join(sys.argv[2:3]), signer))))
    except QuambaError as error:
        parts = {part: getattr(error, part) for part in ("message", "found", "allowed", "fix")}
        print(json.dumps({**parts, "code": int(error.code)}))
        sys.exit(int(error.code))


if __name__ == "__main__":
    main()
