"""How alike two networks' features are: linear CKA, as numpy.

Centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414, eq. 4) compares the similarities between samples that
two sets of features see, so the sets may have different widths and no common axes. With the linear kernel all of it
can be had from products of features, P x Q, and no N x N matrix is made. Rows are samples, columns are channels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEWEST_SAMPLES = 4
"""The unbiased estimate divides by N - 3."""
ROUNDING = 1e-12
"""Share of the plain HSIC below which an unbiased one is 0."""
_Hsic = Callable[[NDArray[np.float64], NDArray[np.float64]], float]


def linear_cka(x: ArrayLike, y: ArrayLike, *, unbiased: bool = False) -> float:
    """Linear CKA of two networks' features of the same samples.

    HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y)), where for centred features HSIC(X, Y) is ||Y^T X||_F^2 up to a factor
    that cancels. It does not change when either side is turned, mirrored, scaled as a whole or shifted; stretching
    single directions changes it.

    The plain estimate is too high where samples are few: noise in P channels and other noise in Q get about
    sqrt(P Q) / N for N far above P and Q, and close to 1 for N far below. ``unbiased`` takes the U-statistic of HSIC
    (Song et al., JMLR 2012; for CKA Nguyen et al. 2021, arXiv 2010.15327), which is 0 on average there, and so below
    0 at times.

    Args:
        x: (N, P) features, at least 4 samples.
        y: (N, Q) features; row i is the same sample as row i of ``x``.
        unbiased: Take the U-statistic of HSIC.

    Returns:
        Computed in float64; 1 for equal features, in [0, 1] if not unbiased.

    Raises:
        ValueError: If the two have different numbers of samples or fewer than 4, are no matrices, hold values that
            are not finite, or are the same for all samples; if unbiased, also where samples are all equally unlike.
    """
    a, b = _centred(x, "x"), _centred(y, "y")
    if len(a) != len(b):
        raise ValueError(f"CKA compares features of the same samples: x has {len(a)} and y has {len(b)}")
    hsic = _unbiased_hsic if unbiased else _hsic
    own = [_own(hsic, features, name) for features, name in ((a, "x"), (b, "y"))]
    return float(hsic(a, b) / np.sqrt(own[0] * own[1]))


def _centred(features: ArrayLike, name: str) -> NDArray[np.float64]:
    """Features (N, P) minus their mean, scaled so that no product of them overflows."""
    matrix = np.asarray(features, np.float64)
    if matrix.ndim != 2 or len(matrix) < FEWEST_SAMPLES:
        raise ValueError(
            f"CKA needs {name} as (samples, channels), {FEWEST_SAMPLES} samples or more; got shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise ValueError(f"CKA needs finite features; {name} holds NaN or infinity")
    if (matrix == matrix[0]).all():
        raise ValueError(f"CKA has no value: {name} is the same for all {len(matrix)} samples")
    matrix = matrix / np.abs(matrix).max()
    return matrix - matrix.mean(axis=0)


def _own(hsic: _Hsic, features: NDArray[np.float64], name: str) -> float:
    """HSIC of features with themselves, at least 0; what is 0 but for rounding is refused."""
    value = hsic(features, features)
    if value <= ROUNDING * _hsic(features, features):
        raise ValueError(
            f"unbiased CKA has no value: the {len(features)} samples of {name} are as far from each other as each of "
            "them is from all; more samples would help"
        )
    return value


def _hsic(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """||B^T A||_F^2 of centred features: tr(K L) of their Gram matrices."""
    return float(np.square(b.T @ a).sum())


def _unbiased_hsic(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Song's estimate times N (N - 3), for centred features.

    The estimate is made of Gram matrices whose diagonals, here p and q, are set to 0. Features that are centred have
    Gram matrices whose rows sum to 0, so a row without its diagonal sums to minus the diagonal, and the sums of it
    become tr(K L) - p.q, sum(p) sum(q) and p.q.
    """
    n = len(a)
    p, q = np.square(a).sum(axis=1), np.square(b).sum(axis=1)
    return float(_hsic(a, b) - n / (n - 2) * (p @ q) + p.sum() * q.sum() / ((n - 1) * (n - 2)))
