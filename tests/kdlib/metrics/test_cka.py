"""CKA against a computation with Gram matrices in float64, and the changes of features that it is invariant to."""

import re

import numpy as np
import pytest
import torch

from kdlib.metrics.cka import linear_cka

UNBIASED = pytest.mark.parametrize("unbiased", [False, True])


def features(seed, samples=60, channels=7):
    """Features with a mean and with channels of different spread."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, channels)) * rng.uniform(0.2, 3, channels) + rng.normal(size=channels)


def related(x, seed, channels=5):
    """Other features of the same samples, half of them noise."""
    rng = np.random.default_rng(seed)
    signal = x @ rng.normal(size=(x.shape[1], channels))
    return np.tanh(signal) + rng.normal(size=signal.shape)


def orthogonal(seed, size):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def gram_hsic(x, y):
    """HSIC with centring matrices (Gretton et al. 2005)."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    return np.trace(x @ x.T @ centre @ y @ y.T @ centre) / (n - 1) ** 2


def gram_hsic_unbiased(x, y):
    """The U-statistic as Song et al. 2012 write it, on Gram matrices that are not centred."""
    n, one = len(x), np.ones(len(x))
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + sums - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize(("unbiased", "hsic"), [(False, gram_hsic), (True, gram_hsic_unbiased)])
@pytest.mark.parametrize(("samples", "channels"), [(60, 7), (9, 30), (4, 3)])
def test_it_equals_the_ratio_of_gram_matrices(unbiased, hsic, samples, channels):
    x = features(0, samples, channels)
    y = related(x, 1)
    expected = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    assert linear_cka(x, y, unbiased=unbiased) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert linear_cka(y, x, unbiased=unbiased) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@UNBIASED
def test_equal_features_have_one_and_turning_scaling_and_shifting_change_nothing(unbiased):
    x = features(2)
    y = related(x, 3)
    turned = 40.0 * y @ orthogonal(4, y.shape[1]) - 7.0
    assert linear_cka(x, x, unbiased=unbiased) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, -3 * x @ orthogonal(5, x.shape[1]) + 1, unbiased=unbiased) == pytest.approx(1, abs=1e-12)
    before = linear_cka(x, y, unbiased=unbiased)
    assert 0.1 < before < 0.9
    assert linear_cka(x, turned, unbiased=unbiased) == pytest.approx(before, rel=1e-9)


@UNBIASED
def test_stretching_one_direction_changes_it(unbiased):
    x = features(6)
    stretched = x * np.where(np.arange(x.shape[1]) == 0, 20.0, 1.0)
    assert linear_cka(x, stretched, unbiased=unbiased) < 0.9


def test_unrelated_features_of_few_samples_look_alike_unless_unbiased():
    plain, unbiased = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(40, 64)), rng.normal(size=(40, 32))
        plain.append(linear_cka(x, y))
        unbiased.append(linear_cka(x, y, unbiased=True))
    assert np.mean(plain) > 0.4
    assert abs(np.mean(unbiased)) < 3 * np.std(unbiased) / np.sqrt(len(unbiased)) + 1e-3
    assert min(unbiased) < 0


def test_with_many_samples_both_estimates_agree():
    x = features(7, samples=5000)
    y = related(x, 8)
    assert linear_cka(x, y) == pytest.approx(linear_cka(x, y, unbiased=True), abs=5e-3)


def test_tensors_and_huge_or_tiny_features_are_taken():
    x = features(9)
    y = related(x, 10)
    expected = linear_cka(x, y)
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(y)) == expected
    assert linear_cka(x * 1e200, y * 1e-200) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (features(0, 20), features(0, 21), "x has 20 samples and y has 21"),
        (features(0, 20), np.full((20, 3), 0.1), "y is the same for all 20 samples"),
        (features(0, 3), features(0, 3), "4 samples or more; got shape (3, 7)"),
        (np.ones((5, 2, 2)), features(0, 5), "x as (samples, channels)"),
        (features(0, 20), np.where(np.arange(20) == 4, np.nan, features(0, 20).T).T, "y holds NaN or infinity"),
    ],
)
@UNBIASED
def test_what_has_no_cka_is_refused_with_the_reason(x, y, message, unbiased):
    with pytest.raises(ValueError, match=re.escape(message)):
        linear_cka(x, y, unbiased=unbiased)


def test_samples_that_are_all_equally_unlike_have_no_unbiased_cka():
    corners = orthogonal(11, 6)
    with pytest.raises(ValueError, match="unbiased CKA is undefined: the 6 samples of y"):
        linear_cka(features(0, 6), corners, unbiased=True)
    assert 0 < linear_cka(features(0, 6), corners) < 1
