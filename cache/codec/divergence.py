"""Kullback-Leibler divergence between the softmax distributions of exact and stored heatmaps.

`divergences` is compiled and computes all kinds of `cache.codec.base.ERROR_KINDS`; `log_divergence` computes the kinds
of log logits in numpy, at any temperature.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from cache.codec.base import ERROR_KINDS


def divergences(
    exact: npt.NDArray[np.float32], stored: npt.NDArray[np.float32], floor: float
) -> npt.NDArray[np.float64]:
    """KL in nats between exact and stored maps (V, K, H, W), as in `Encoded.error`: (V, K, 4); releases the GIL.

    The kinds of log logits are infinite where the two maps do not reach the floor at the same pixels.
    """
    from cache.codec import kernels

    error = np.zeros((exact.shape[0] * exact.shape[1], len(ERROR_KINDS)))
    flat = (len(error), *exact.shape[-2:])
    kernels.divergences(exact.reshape(flat), stored.reshape(flat), np.float32(floor), error)
    return error.reshape(*exact.shape[:2], -1)


def log_divergence(
    exact: npt.NDArray[Any], stored: npt.NDArray[Any], floor: float, temperature: float
) -> npt.NDArray[np.float64]:
    """KL in nats between softmax(ln h / T) of exact and stored maps (..., H, W), both over the pixels exact >= floor.

    The result (...) is nan for maps without such a pixel.
    """
    above = exact >= np.float32(floor)
    log_h, log_v = (np.log(np.where(above, maps, 1), dtype=np.float64) / temperature for maps in (exact, stored))
    return _divergence(np.where(above, log_h, -np.inf), np.where(above, log_v, -np.inf))


def _divergence(exact: npt.NDArray[np.float64], stored: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """KL between softmax distributions over the last two axes; both logits must be -inf at the same pixels."""
    with np.errstate(invalid="ignore"):  # -inf - -inf is nan below the floor, which is replaced, and for empty maps
        log_p, log_q = (logits - logits.max(axis=(-2, -1), keepdims=True) for logits in (exact, stored))
        p = np.exp(log_p)
        gap = np.where(np.isneginf(log_p), 0, log_p - log_q)
        total_p, total_q = p.sum(axis=(-2, -1)), np.exp(log_q).sum(axis=(-2, -1))
        return (p * gap).sum(axis=(-2, -1)) / total_p + np.log(total_q / total_p)
