"""How heatmaps become bytes, judged by what that does to the logits.

`RootCodec` (the default) stores the fourth root of a value in equal steps between a floor and the joint's peak. For a
spatial softmax of log logits the cost of an error is p·(d ln h)², so at T = 1 the best steps are equal in h^(1/2) and
at T = 4 in h^(1/8); the fourth root serves both, beats equal steps in ln h by 6 % of the bytes at the same divergence,
and needs nothing but square roots, which are the same on every machine. Values below the floor become code 0: log
logits remove them. The peak is kept exactly, and its code is given to no other pixel, so that the argmax survives.
The codes are stored as differences along both axes, which saves another 14 %: neighbours are alike.

`FloatCodec` stores the values themselves as float32 (exact) or float16 (rounded).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import ERROR_KINDS


def divergences(
    exact: npt.NDArray[np.float32], stored: npt.NDArray[np.float32], floor: float
) -> npt.NDArray[np.float64]:
    """KL in nats between exact and stored maps (V, K, H, W), as in `Encoded.error`: (V, K, 4); releases the GIL.

    Infinite where the two do not reach the floor at the same pixels.
    """
    from cache.codec import kernels

    error = np.zeros((exact.shape[0] * exact.shape[1], len(ERROR_KINDS)))
    flat = (len(error), *exact.shape[-2:])
    kernels.divergences(exact.reshape(flat), stored.reshape(flat), np.float32(floor), error)
    return error.reshape(*exact.shape[:2], -1)


def log_divergence(
    exact: npt.NDArray[Any], stored: npt.NDArray[Any], floor: float, temperature: float
) -> npt.NDArray[np.float64]:
    """KL in nats between softmax(ln h / T) of exact and stored maps (..., H, W), both over exact >= floor.

    nan where nothing reaches the floor.
    """
    above = exact >= np.float32(floor)
    log_h, log_v = (np.log(np.where(above, maps, 1), dtype=np.float64) / temperature for maps in (exact, stored))
    return _divergence(np.where(above, log_h, -np.inf), np.where(above, log_v, -np.inf))


def _divergence(exact: npt.NDArray[np.float64], stored: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """KL between softmax distributions over the last two axes; -inf logits must agree."""
    with np.errstate(invalid="ignore"):  # -inf - -inf where nothing is above the floor, or below it: nan, handled
        log_p, log_q = (logits - logits.max(axis=(-2, -1), keepdims=True) for logits in (exact, stored))
        p = np.exp(log_p)
        gap = np.where(np.isneginf(log_p), 0, log_p - log_q)
        total_p, total_q = p.sum(axis=(-2, -1)), np.exp(log_q).sum(axis=(-2, -1))
        return (p * gap).sum(axis=(-2, -1)) / total_p + np.log(total_q / total_p)
