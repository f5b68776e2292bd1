"""Linear CKA, the similarity of two networks' features, with numpy.

Centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414, eq. 4) compares the similarities between samples in
two sets of features, so the sets may have different widths and need no common axes. With the linear kernel it can be
computed from P x Q products of features, without an N x N matrix. Rows are samples, columns are channels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_SAMPLES = 4
"""Smallest number of samples N: the unbiased estimate divides by N - 3."""
ROUNDING = 1e-12
"""Fraction of the plain HSIC below which an unbiased HSIC counts as 0."""
_Hsic = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


def linear_cka(x: ArrayLike, y: ArrayLike, *, unbiased: bool = False) -> float:
    """Linear CKA of two networks' features of the same samples.

    It is HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)), where for centred features HSIC(X, Y) is ||Y^T X||_F^2 up to a
    factor that cancels. Rotating, mirroring, shifting or uniformly scaling either side does not change it; scaling
    single directions does.

    The plain estimate is too high for few samples: independent noise in P and in Q channels gives about sqrt(P Q) / N
    for N far above P and Q, and almost 1 for N far below. ``unbiased`` takes the U-statistic of HSIC (Song et al., JMLR
    2012; for CKA Nguyen et al. 2021, arXiv 2010.15327). Its mean is 0 for independent noise, and it can be negative.

    Args:
        x: (N, P) features of N >= 4 samples.
        y: (N, Q) features; row i is the same sample as row i of ``x``.
        unbiased: Take the U-statistic of HSIC.

    Returns:
        CKA, computed in float64: 1 for equal features, and in [0, 1] unless ``unbiased``.

    Raises:
        ValueError: If the features are not matrices, have different numbers of samples or fewer than 4, hold values
            that are not finite, or are the same for all samples; with ``unbiased``, also if all samples are equally
            far from each other.
    """
    a, b = _centred(x, "x"), _centred(y, "y")
    if len(a) != len(b):
        raise ValueError(f"CKA compares features of the same samples: x has {len(a)} samples and y has {len(b)}")
    hsic = _unbiased_hsic if unbiased else _hsic
    norms = [_positive_hsic(hsic, features, name) for features, name in ((a, "x"), (b, "y"))]
    return float(hsic(a, b) / np.sqrt(norms[0] * norms[1]))


def _centred(features: ArrayLike, name: str) -> NDArray[np.float64]:
    """Features (N, P) minus their mean, scaled so that their products do not overflow."""
    matrix = np.asarray(features, np.float64)
    if matrix.ndim != 2 or len(matrix) < MIN_SAMPLES:
        raise ValueError(
            f"CKA needs {name} as (samples, channels), {MIN_SAMPLES} samples or more; got shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise ValueError(f"CKA needs finite features; {name} holds NaN or infinity")
    if (matrix == matrix[0]).all():
        raise ValueError(f"CKA is undefined: {name} is the same for all {len(matrix)} samples")
    matrix = matrix / np.abs(matrix).max()
    return matrix - matrix.mean(axis=0)


def _positive_hsic(hsic: _Hsic, features: NDArray[np.float64], name: str) -> float:
    """HSIC of features with themselves. Raises ValueError if it is 0 up to rounding."""
    value = hsic(features, features)
    if value <= ROUNDING * _hsic(features, features):
        raise ValueError(
            f"unbiased CKA is undefined: the {len(features)} samples of {name} are all equally far from each other; "
            "give more samples"
        )
    return value


def _hsic(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """||B^T A||_F^2 of centred features, which is tr(K L) of their Gram matrices."""
    return float(np.square(b.T @ a).sum())


def _unbiased_hsic(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Song's estimate times N (N - 3), for centred features.

    The estimate uses Gram matrices whose diagonals, here p and q, are set to 0. The rows of the Gram matrix of centred
    features sum to 0, so without the diagonal they sum to minus the diagonal. The three sums of the estimate are then
    tr(K L) - p.q, sum(p) sum(q) and p.q.
    """
    n = len(a)
    p, q = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
    return float(_hsic(a, b) - n / (n - 2) * (p @ q) + p.sum() * q.sum() / ((n - 1) * (n - 2)))
