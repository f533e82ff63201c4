import numpy as np
import pytest
import torch

from quamba_export.calib.observers.absmax import AbsoluteMaximum
from quamba_export.calib.observers.kinds import OBSERVERS, observer_from_table
from quamba_export.calib.observers.observer import SumOfMaxima, scales_from_limits
from quamba_export.calib.observers.percentile import Percentile
from quamba_export.plugins.common.quantization import SMALLEST_SCALE
from quamba_export.runtime.errors import QuambaError


def samples(count=5, shape=(3, 400), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * (1 + i) for i in range(count)]


def observed(observer, values):
    total = observer.measure(values[0])
    for value in values[1:]:
        total = observer.combine(total, observer.measure(value))
    return total


@pytest.mark.parametrize("kind", sorted(OBSERVERS))
def test_statistic_does_not_grow_with_the_samples(kind):
    observer = OBSERVERS[kind]()
    one, many = (observed(observer, samples(count)) for count in (1, 20))
    assert {name: value.shape for name, value in one.items()} == {
        name: value.shape for name, value in many.items()
    }
    assert all(value.shape[0] == 3 for value in many.values())


@pytest.mark.parametrize("kind", sorted(OBSERVERS))
def test_a_recipe_table_makes_the_observer_and_back(kind):
    observer = OBSERVERS[kind]()
    assert observer_from_table(observer.as_table(), "here") == observer


@pytest.mark.parametrize("shape", [(1, 700), (4, 33)])
def test_absolute_maximum(shape):
    values = samples(shape=shape)
    total = observed(AbsoluteMaximum(), values)
    expected = torch.stack([value.abs().amax(1) for value in values]).amax(0)
    np.testing.assert_array_equal(AbsoluteMaximum().limit(total), expected.double().numpy())


@pytest.mark.parametrize("alpha", [0.3, 0.99, 0.9995, 0.99999, 1.0])
@pytest.mark.parametrize("n", [1, 2, 401, 5000])
def test_percentile_of_one_sample_is_the_quantile_of_magnitudes(alpha, n):
    values = samples(1, (2, n))[0]
    limit = Percentile(alpha).limit(Percentile(alpha).measure(values))
    np.testing.assert_allclose(limit, torch.quantile(values.abs().double(), alpha, dim=1).numpy(), rtol=1e-12)


def test_percentile_is_smoothed_over_samples_in_order():
    observer, values = Percentile(0.9, 0.25), samples(4)
    expected = torch.quantile(values[0].abs().double(), 0.9, dim=1)
    for value in values[1:]:
        expected += 0.25 * (torch.quantile(value.abs().double(), 0.9, dim=1) - expected)
    np.testing.assert_allclose(observer.limit(observed(observer, values)), expected.numpy(), rtol=1e-12)


def test_sum_of_maxima():
    values = samples()
    expected = sum(value.abs().amax(1).double() for value in values)
    np.testing.assert_allclose(observed(SumOfMaxima(), values)["absmax"], expected.numpy())


def test_scales_are_positive_even_of_dead_rows():
    scales, dead = scales_from_limits(np.array([0.0, 254.0, 127.0, 1e-40]))
    assert scales.dtype == np.float32
    assert scales.tolist() == [2, 2, 1, 2]
    assert dead == 2
    assert scales_from_limits(np.array([2.0**-60]))[0].item() >= SMALLEST_SCALE
    assert scales_from_limits(np.zeros(2))[0].tolist() == [np.float32(1 / 127)] * 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "absmx"}, "did you mean absmax"),
        ({}, "unknown observer kind in observers.x: None"),
        ({"kind": "percentile", "alfa": 1}, "did you mean alpha"),
        ({"kind": "absmax", "alpha": 1}, "unknown option of absmax"),
        ({"kind": "percentile", "alpha": 0}, r"allowed: a number in \(0, 1\]"),
        ({"kind": "percentile", "alpha": 1.01}, "found: 1.01"),
        ({"kind": "percentile", "sigma": "0.1"}, "option sigma"),
        ({"kind": "percentile", "sigma": True}, "option sigma"),
        ({"kind": "percentile", "alpha": float("nan")}, "found: nan"),
    ],
)
def test_bad_tables_are_refused(table, message):
    with pytest.raises(QuambaError, match=message):
        observer_from_table(table, "observers.x")
