"""The arithmetic of every kernel but the linear layers', compiled for the host: the references' bits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
import torch
from host_math import F32, assert_same_bits, drawn, half_steps, host_math, pointer
from op_cases.drawing import STEP

from quamba_export.plugins.common import precise, quantization, recurrence
from quamba_export.plugins.QuantizedSSDScan import chunk

TINY, LARGEST = np.finfo(np.float32).tiny, np.finfo(np.float32).max
AWKWARD = np.array(
    [0.0, -0.0, TINY, -TINY, 1e-40, 80.0, -80.0, 88.8, -88.8, 104.0, -104.0, -745.2, 1e30, -1e30]
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_math(tmp_path_factory.mktemp("host_math"))


def mapped(function: Callable[..., object], x: F32, *scale: float) -> F32:
    """function(x, count, scale, y) -> y; int8 codes where there is a scale, otherwise fp32."""
    y = np.empty(x.shape, np.int8 if scale else np.float32)
    function(pointer(x), ctypes.c_int(x.size), *map(ctypes.c_float, scale), pointer(y))
    return y


@pytest.mark.parametrize("scale", [STEP, 45 / 1024, 0.0261, 1.0, 3e-5])
def test_codes_on_half_steps(kernels: ctypes.CDLL, scale: float) -> None:
    x = half_steps(scale)
    expected = quantization.quantize(torch.from_numpy(x), scale)
    assert_same_bits(expected, mapped(kernels.quantize_all, x, scale))


@pytest.mark.parametrize(("name", "low", "high"), [("by", -17, 17), ("anyhow", -44, 38)])
def test_codes_by_a_reciprocal(kernels: ctypes.CDLL, name: str, low: int, high: int) -> None:
    """On half steps, beside them and far off, for scales up to the limits of each function."""
    random = np.random.default_rng(4)
    for scale in [STEP, 45 / 1024, 1.1 * 10.0**low, *10 ** random.uniform(low, high, 200)]:
        scale = float(np.float32(scale))
        far = np.array([0.0, -0.0, TINY, 1e-40, LARGEST, -LARGEST, 299.9, 300.1, np.inf, -np.inf])
        with np.errstate(over="ignore"):
            x = np.concatenate(
                [half_steps(scale), far.astype(np.float32), drawn(500) * np.float32(60 * scale)]
            )
        found = mapped(getattr(kernels, f"quantized_{name}_all"), x, scale)
        assert np.array_equal(found, mapped(kernels.quantize_all, x, scale)), scale


@pytest.mark.parametrize("name", ["silu", "softplus", "exp"])
def test_functions_round_once(kernels: ctypes.CDLL, name: str) -> None:
    x = np.concatenate([AWKWARD.astype(np.float32), np.linspace(-120, 120, 300_001, dtype=np.float32)])
    expected = getattr(precise, name)(torch.from_numpy(x))
    assert_same_bits(expected, mapped(getattr(kernels, f"{name}_all"), x))


def test_decay_is_exp_of_what_is_not_positive(kernels: ctypes.CDLL) -> None:
    x = np.concatenate(
        [-np.abs(AWKWARD.astype(np.float32)), -np.abs(drawn(1_000_000)), -np.geomspace(1e-9, 120, 300_001)]
    )
    x = np.append(x, -np.inf).astype(np.float32)
    assert_same_bits(precise.exp(torch.from_numpy(x)), mapped(kernels.decay_all, x))


@pytest.mark.parametrize("name", ["exp", "softplus", "silu"])
def test_short_chains_end_in_the_same_floats(kernels: ctypes.CDLL, name: str) -> None:
    """Every code on many scales with a bias, as a step finds them; floats at random; what is not finite."""
    random = np.random.default_rng(11)
    scales = np.geomspace(1e-6, 8.0, 400, dtype=np.float32)[:, None]
    codes = (np.arange(-128, 128, dtype=np.float32) * scales + random.normal(0, 3, scales.shape)).ravel()
    x = np.concatenate([AWKWARD, codes, drawn(1_000_000, spread=20.0), np.geomspace(1e-30, 100, 100_001)])
    x = np.concatenate([x, -x, [] if name == "silu" else [np.inf, -np.inf]]).astype(np.float32)
    assert_same_bits(
        getattr(precise, name)(torch.from_numpy(x)), mapped(getattr(kernels, f"{name}_soon_all"), x)
    )
    assert np.isnan(mapped(getattr(kernels, f"{name}_soon_all"), np.array([np.nan], np.float32))).all()


def test_silu_of_every_fp16_number(kernels: ctypes.CDLL) -> None:
    z = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    found, expected = mapped(kernels.silu_of_half_all, z), precise.silu(torch.from_numpy(z))
    finite = np.isfinite(z)
    assert_same_bits(expected[torch.from_numpy(finite)], found[finite])
    assert np.array_equal(expected.numpy(), found, equal_nan=True)


@pytest.mark.parametrize(("name", "low", "high"), [("exp", -105.0, 89.0), ("log1p", 1e-46, 1.0)])
def test_short_chains_are_within_two_to_the_minus_51(
    kernels: ctypes.CDLL, name: str, low: float, high: float
) -> None:
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("longdouble is no wider than fp64 here")
    x = np.concatenate([np.linspace(low, high, 1_000_001), np.geomspace(1e-46, high, 300_001)])
    x = np.append(x, np.nextafter(np.sqrt(2.0) - 1.0, [0.0, 1.0]))
    found = np.empty_like(x)
    getattr(kernels, f"wide_{name}_soon_all")(pointer(x), ctypes.c_int(x.size), pointer(found))
    exact = getattr(np, name)(x.astype(np.longdouble))
    assert np.abs(found / exact - 1).max() < 2.0**-51


@pytest.mark.parametrize("scale", [STEP, 0.0261, 0.3, 1e-4])
def test_codes_of_silu_are_certified(kernels: ctypes.CDLL, scale: float) -> None:
    """Values at random, and those whose silu lies on or beside the middle between two codes."""
    middles = torch.from_numpy(half_steps(scale)).double()
    x = middles.abs() + 1.0
    for _ in range(60):  # Newton for silu(x) = middle on its rising branch
        gate = torch.sigmoid(x)
        x = (x - (x * gate - middles) / (gate * (1 + x * (1 - gate)))).clamp(min=-1.27)
    near = x.float().numpy()
    near = np.concatenate([near, *(np.nextafter(near, np.float32(far)) for far in (-1e9, 1e9))])
    values = np.concatenate([AWKWARD.astype(np.float32), near, drawn(1_000_000, spread=4.0 + 60 * scale)])
    expected = quantization.quantize(precise.silu(torch.from_numpy(values)), scale)
    assert_same_bits(expected, mapped(kernels.quantized_silu_all, values, scale))
    assert_same_bits(expected, mapped(kernels.silu_codes, values, scale))


@pytest.mark.parametrize(("scale", "share"), [(0.05, 1e-3), (1e-17, 1.0), (1e-19, 1.0), (1e19, 1.0)])
def test_codes_of_silu_that_are_left_open_are_few(kernels: ctypes.CDLL, scale: float, share: float) -> None:
    """But for scales without a plain reciprocal, where none is closed; and never is one wrong."""
    x, found = drawn(200_000, spread=4.0), np.empty(200_000, np.int8)
    arguments = pointer(x), ctypes.c_int(x.size), ctypes.c_float(scale), pointer(found)
    unsure = kernels.silu_codes(*arguments)
    assert unsure == x.size if abs(np.log10(scale)) > 18 else unsure < share * x.size
    assert_same_bits(quantization.quantize(precise.silu(torch.from_numpy(x)), scale), found)


@pytest.mark.parametrize("count", [1, 7, 768, 2560])
def test_root_mean_square(kernels: ctypes.CDLL, count: int) -> None:
    for seed in range(20):
        x = drawn(count, spread=10.0 ** (seed % 5 - 2), seed=seed)
        found = kernels.root_of(pointer(x), ctypes.c_int(count), ctypes.c_float(1e-5))
        assert found == precise.root_mean_square(torch.from_numpy(x), 1e-5).item()


def test_a_warp_adds_as_the_tree_does(kernels: ctypes.CDLL) -> None:
    for N in range(1, 257):
        products = drawn(N, seed=N)
        found = kernels.tree_sum_of(pointer(products), ctypes.c_int(N))
        assert found == recurrence.tree_sum(torch.from_numpy(products)).item(), N


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_one_token_of_a_scan(kernels: ctypes.CDLL, dtype: str) -> None:
    N, scale, decay, step_x = 1 << 12, 0.0371, 0.9371, -0.217
    B, C = drawn(N, seed=5), drawn(N, seed=6)
    h = drawn(N) if dtype == "float32" else np.random.default_rng(7).integers(-128, 128, N).astype(np.int8)
    state, read = h.copy(), np.empty(N, np.float32)
    scales = [] if dtype == "float32" else [ctypes.c_float(scale)]
    step = kernels.step_float if dtype == "float32" else kernels.step_int8
    arguments = (
        *scales,
        ctypes.c_float(decay),
        ctypes.c_float(step_x),
        pointer(B),
        pointer(C),
        ctypes.c_int(N),
    )
    step(pointer(state), *arguments, pointer(read))
    token = [torch.from_numpy(a)[None, None] for a in (B, C)]
    factor, inputs = torch.tensor(decay, dtype=torch.float32), torch.tensor(step_x, dtype=torch.float32)
    y, out = recurrence.scan(torch.from_numpy(h)[None], scale, lambda t: factor, inputs.view(1, 1, 1), *token)
    assert_same_bits(out[0], state)
    assert recurrence.tree_sum(torch.from_numpy(read)).item() == y.item()


def test_registers_hold_what_the_code_means(kernels: ctypes.CDLL) -> None:
    x, found = half_steps(STEP), np.empty(3 * 800, np.float32)
    kernels.rounded_int8(pointer(x), ctypes.c_int(x.size), ctypes.c_float(STEP), pointer(found))
    expected = quantization.dequantize(quantization.quantize(torch.from_numpy(x), STEP), STEP)
    assert np.array_equal(expected.numpy(), found)


@pytest.mark.parametrize(
    "root", [1.0, 0.7, 1.9999999, 1.0000001, 3.1622776e-3, 2.0**-60, 2.0**60, 1e-18, 1e18, 0.0, 1e-30]
)
def test_a_root_divides_as_a_division_does(kernels: ctypes.CDLL, root: float) -> None:
    """Random quotients; values beside multiples of the root; zeros and extremes."""
    random, divisor = np.random.default_rng(9), np.float32(root)
    with np.errstate(all="ignore"):
        codes = np.arange(1, 400_000).astype(np.float32) * divisor
        near = [codes, np.nextafter(codes, np.float32(9e9)), np.nextafter(codes, np.float32(0))]
        spread = 2.0 ** random.uniform(-30, 30, 2_000_000) * random.choice([-1, 1], 2_000_000)
        x = np.concatenate([*near, spread * root, AWKWARD[:5]]).astype(np.float32)
        found = np.empty_like(x)
        refused = kernels.divide_by_root(
            pointer(x), ctypes.c_int(x.size), ctypes.c_float(divisor), pointer(found)
        )
        expected = x / divisor
    assert refused == x.size if root in (0.0, 1e-30) else refused < x.size
    assert np.array_equal(expected, found, equal_nan=True)


def test_a_row_of_integers_as_two_codes_each(kernels: ctypes.CDLL) -> None:
    """In words of four; and bytes of four words change places."""
    x = drawn(64, 16) * (2.0 ** np.linspace(-110, 120, 64)[:, None]).astype(np.float32)
    x[0], x[1] = 0, np.r_[8192.0, np.arange(-7, 8) + 0.5]
    low, high, units = np.empty(x.shape, np.int8), np.empty(x.shape, np.int8), np.empty(len(x), np.float32)
    sizes = ctypes.c_int(x.shape[0]), ctypes.c_int(x.shape[1])
    kernels.fixed_points(pointer(x), *sizes, pointer(units), pointer(low), pointer(high))
    codes, unit = chunk.fixed_point(torch.from_numpy(x))
    assert_same_bits(unit[:, 0], units)
    assert np.array_equal(codes.numpy(), 256.0 * high + low)
    words = np.arange(16, dtype=np.uint8).reshape(4, 4)
    turned = words.copy()
    kernels.turn_words(pointer(turned))
    assert np.array_equal(turned, words.T)


@pytest.mark.parametrize("divisor", [1, 2, 3, 4, 7, 60, 640, 1023, 1024, 16384, 65535])
def test_division_by_a_multiplication(kernels: ctypes.CDLL, divisor: int) -> None:
    for n in (*range(0, 300), *(divisor * k + off for k in range(0, 65536 // divisor) for off in (-1, 0, 1))):
        if n >= 0:
            assert kernels.divide_by(ctypes.c_int(divisor), ctypes.c_int(n)) == n // divisor, n


SUBNORMAL = [(1e12, 1e-41), (1e9, 3e-39), (1e4, 1.5e-38), (1.0, 1e-41), (1e-3, 2e-40)]


@pytest.mark.parametrize(
    ("root", "scale"), [(1.0, 61 / 1024), (0.7, 0.0261), (3e-20, 2e-19), (1e30, 1e20), *SUBNORMAL]
)
def test_a_quotient_is_quantized_as_by_two_divisions(kernels: ctypes.CDLL, root: float, scale: float) -> None:
    root, scale = np.float32(root), np.float32(scale)
    halves = (np.arange(-300, 300) + 0.5).astype(np.float64) * scale * root
    far = [sign * 2**power for sign in (-1, 1) for power in range(4, 15)]  # as far as a subnormal rounds
    near = [halves * (1 + step * 2.0**-24) for step in (*range(-12, 13), *far)]
    with np.errstate(over="ignore"):
        x = np.concatenate([*near, drawn(20000, seed=1).astype(np.float64) * root]).astype(np.float32)
    found = np.empty(x.shape, np.int8)
    kernels.quantized_quotient_all(
        pointer(x), ctypes.c_int(x.size), ctypes.c_float(root), ctypes.c_float(scale), pointer(found)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint((x / root) / scale)
    assert np.array_equal(found, np.clip(steps, -128, 127).astype(np.int8))
