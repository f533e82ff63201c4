"""Random and awkward calls of every op, without end: odd sizes, sizes around tiles, every state dtype."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from op_cases import Case, head, int4, step
from op_cases.drawing import Array, draw

from quamba_export.plugins.common.registry import get_op

LENGTHS = (1, 1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65)
HADAMARD_WIDTHS = (
    1,
    2,
    8,
    12,
    16,
    20,
    24,
    28,
    36,
    40,
    48,
    56,
    80,
    96,
    112,
    192,
    256,
    320,
    640,
    768,
    1536,
    1792,
    5120,
)
TOKEN_WIDTHS = (
    1024,
    1536,
    3072,
    5120,
    7168,
    8192,
    14336,
    16384,
)  # of single tokens, which several blocks share


def random_cases(op: str, seed: int) -> Iterator[Case]:
    """Calls of `op`; the same ones for the same seed."""
    random = np.random.default_rng([seed, len(op), *op.encode()[:8]])
    number = 0
    while True:
        number += 1
        yield DRAWN[op](op, random, f"{seed}_{number}")


def _pick(random: np.random.Generator, *choices: int) -> int:
    return int(random.choice(choices))


def _rms_norm(op: str, random: np.random.Generator, name: str) -> Case:
    D = _pick(random, int(random.integers(1, 3000)), 384, 768, 2560)
    sizes = {"B": _pick(random, 1, 2, 5), "L": _pick(random, *LENGTHS), "D": D}
    return draw(op, name, sizes)


def _linear(op: str, random: np.random.Generator, name: str) -> Case:
    K = _pick(random, int(random.integers(1, 700)), 16 * int(random.integers(1, 80)), 768, 2048)
    sizes = {
        "B": _pick(random, 1, 1, 2, 3, 8),
        "L": _pick(random, *LENGTHS, 100, 130),
        "K": K,
        "M": _pick(random, int(random.integers(1, 300)), int(random.integers(1, 3000)), 384),
    }
    scales = {"weight_scale": 0.011}
    if op == "RequantizedLinear":
        scales["out_scale"] = 0.0123 * 0.011 * K**0.5 * 74 * 74 / 60
    return draw(op, name, sizes, **scales)


def _int4_sizes(random: np.random.Generator) -> dict[str, int]:
    return {
        "B": _pick(random, 1, 1, 2, 3, 8),
        "L": _pick(random, *LENGTHS, 63, 100, 127, 129, 200),
        "K": _pick(random, 32 * int(random.integers(1, 60)), 128 * int(random.integers(1, 20)), 768, 2560),
        "M": _pick(random, int(random.integers(1, 300)), int(random.integers(1, 3000)), 384),
    }


def _int4_linear(op: str, random: np.random.Generator, name: str) -> Case:
    return int4.case_of(op, name, _int4_sizes(random))


def _half_int4(op: str, random: np.random.Generator, name: str) -> Case:
    sizes = _int4_sizes(random)
    return draw(op, name, sizes, weight_scale=int4.spread(sizes["K"]), **_halves(random, sizes))


def _half_int8(op: str, random: np.random.Generator, name: str) -> Case:
    sizes = {
        "B": _pick(random, 1, 1, 2, 3, 8),
        "L": _pick(random, *LENGTHS, 63, 100, 130),
        "K": _pick(random, int(random.integers(1, 700)), 16 * int(random.integers(1, 150)), 48, 160, 1536),
        "M": _pick(random, int(random.integers(1, 300)), int(random.integers(1, 3000)), 384),
    }
    return draw(op, name, sizes, weight_scale=0.011, **_halves(random, sizes))


def _halves(random: np.random.Generator, sizes: dict[str, int]) -> dict[str, Array]:
    """x as it is drawn or, in every other call, numbers of all binades below 32,768."""
    if random.random() < 0.5:
        return {}
    shape = (sizes["B"], sizes["L"], sizes["K"])
    return {"x": random.normal(size=shape).astype(np.float32) * np.exp2(random.integers(-20, 13, shape))}


def _conv(op: str, random: np.random.Generator, name: str) -> Case:
    sizes = {
        "B": _pick(random, 1, 2, 3),
        "L": _pick(random, *LENGTHS),
        "C": _pick(random, int(random.integers(1, 600)), 4 * int(random.integers(1, 300)), 128, 1024),
        "W": _pick(random, 2, 3, 4),
    }
    return draw(op, name, sizes)


def _step(op: str, random: np.random.Generator, name: str) -> Case:
    D = _pick(random, int(random.integers(1, 700)), 4 * int(random.integers(1, 900)), 768, 2560)
    return step.case_of(name, *_step_sizes(random, D))


def _int4_step(op: str, random: np.random.Generator, name: str) -> Case:
    D = _pick(random, 32 * int(random.integers(1, 90)), 768, 2560)
    return step.int4_case_of(name, *_step_sizes(random, D))


def _step_sizes(random: np.random.Generator, D: int) -> tuple[dict[str, int], int]:
    """Sizes, and where the convolved channels begin."""
    C, begin, behind = (int(n) for n in random.integers((1, 0, 0), (600, 300, 300)))
    B, W = _pick(random, 1, 1, 1, 2, 5, 9, 40), _pick(random, 2, 3, 4, 4)
    return {"B": B, "L": 1, "D": D, "M": begin + C + behind, "C": C, "W": W}, begin


def _head(op: str, random: np.random.Generator, name: str) -> Case:
    sizes = {
        "B": _pick(random, 1, 1, 1, 2, 4, 5, 8, 9, 64),
        "L": _pick(random, 1, 1, 1, 1, 3),
        "D": _pick(random, int(random.integers(1, 700)), 8 * int(random.integers(1, 400)), 768, 2560),
        "V": _pick(random, int(random.integers(1, 100)), int(random.integers(1, 9000))),
    }
    return head.case_of(name, sizes)


def _state_dtype(op: str, random: np.random.Generator) -> str:
    (state,) = (tensor for tensor in get_op(op).spec.inputs if tensor.name == "state")
    return str(random.choice(state.allowed))


def _selective(op: str, random: np.random.Generator, name: str) -> Case:
    B = _pick(random, 1, 2)
    prompts = (31, 32, 33, 100, 130, 160)  # whose kernel begins at 32 and holds 96 tokens
    widest = 12 * 132 // B  # whose blocks of 12 channels fit an H200's 132 multiprocessors once
    sizes = {
        "B": B,
        "L": _pick(random, *LENGTHS, *prompts),
        "E": _pick(random, *(int(n) for n in random.integers(1, 80, 2)), 96, widest, widest + 1),
        "N": _pick(random, 16, 16, 16, int(random.integers(1, 257)), 32, 64, 128),
    }
    if op == "DynamicStateSelectiveScan":
        return draw(op, name, sizes, attrs={"stochastic": _pick(random, 0, 1)})
    return draw(op, name, sizes, state_dtype=_state_dtype(op, random))


def _ssd(op: str, random: np.random.Generator, name: str) -> Case:
    G = _pick(random, 1, 1, 2, 4)
    sizes = {
        "B": _pick(random, 1, 2),
        # one token has a kernel of its own, and whole chunks of 64 have
        "L": _pick(random, *LENGTHS, *[1] * len(LENGTHS), *[64, 65, 100, 128, 200, 256] * 2),
        "H": G * _pick(random, 1, 2, 3),
        "P": _pick(random, int(random.integers(1, 257)), 4 * int(random.integers(1, 65)), 16, 32, 64),
        "G": G,
        "N": _pick(random, 16, 32, 64, 128, 128, 256, int(random.integers(1, 257))),
        "S": _pick(random, 1, 16),
    }
    dtype, strided = _state_dtype(op, random), bool(random.integers(2))
    attrs = {"stochastic": _pick(random, 0, 1)} if op == "DynamicStateSSDScan" else None
    return draw(op, name, sizes, state_dtype=dtype, strided=strided, attrs=attrs)


def _tokens(random: np.random.Generator) -> dict[str, int]:
    if random.random() < 0.4:
        return {"B": 1, "L": 1, "E": _pick(random, *TOKEN_WIDTHS)}
    if random.random() < 0.4:  # too many tokens to make each in parts
        return {"B": _pick(random, 1, 2), "L": _pick(random, 17, 20), "E": _pick(random, *TOKEN_WIDTHS)}
    E = _pick(random, *HADAMARD_WIDTHS, int(random.integers(1, 4000)))
    return {"B": _pick(random, 1, 2), "L": _pick(random, 1, 3, 17), "E": E}


def _hadamard(op: str, random: np.random.Generator, name: str) -> Case:
    sizes = _tokens(random)
    return draw(op, name, sizes, attrs={"hadamard": _pick(random, 1, 1, 1, 0)})


def _gated(op: str, random: np.random.Generator, name: str) -> Case:
    sizes = _tokens(random)
    groups = [n for n in (1, 2, 4, 8, 16) if sizes["E"] % n == 0]
    attrs = {"hadamard": _pick(random, 1, 1, 1, 0), "n_groups": _pick(random, *groups)}
    return draw(op, name, sizes, attrs=attrs)


DRAWN = {
    "DynamicStateSSDScan": _ssd,
    "DynamicStateSelectiveScan": _selective,
    "GatedRMSNormHadamardQuantize": _gated,
    "HadamardQuantize": _hadamard,
    "HalfCausalConv1d": _conv,
    "HalfGatedRMSNormHadamard": _gated,
    "HalfHadamard": _hadamard,
    "HalfInt4Linear": _half_int4,
    "HalfInt4Projection": _half_int4,
    "HalfInt8Linear": _half_int8,
    "HalfInt8Projection": _half_int8,
    "HalfRMSNorm": _rms_norm,
    "HalfSSDScan": _ssd,
    "HalfSelectiveScan": _selective,
    "InputProjectionStep": _step,
    "Int4InputProjectionStep": _int4_step,
    "Int4Linear": _int4_linear,
    "Int4RequantizedLinear": _int4_linear,
    "QuantizedCausalConv1d": _conv,
    "QuantizedLinear": _linear,
    "QuantizedSSDScan": _ssd,
    "QuantizedSelectiveScan": _selective,
    "RMSNormLinear": _head,
    "RMSNormQuantize": _rms_norm,
    "RequantizedLinear": _linear,
}
