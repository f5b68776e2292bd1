"""Encoding points as heatmaps and decoding heatmaps to points, with numpy.

Heatmaps are (..., K, H, W); points are (x, y) in heatmap pixels. Decoding follows deep-high-resolution-net.pytorch
(lib/core/inference.py) and DarkPose (Zhang et al., CVPR 2020, arXiv 1910.06278). No function changes its arguments.
"""

import cv2
import numpy as np
from numpy.typing import NDArray


def gaussian_heatmaps(
    points: NDArray[np.floating], visible: NDArray[np.generic], size: tuple[int, int], sigma: float
) -> NDArray[np.float32]:
    """Draw a Gaussian of height 1 around each point, with a sub-pixel centre.

    Args:
        points: (..., K, 2) x, y in heatmap pixels.
        visible: (..., K) positive where the joint is labelled; the maps of other joints are zero.
        size: Width and height of the heatmaps.
        sigma: Standard deviation in heatmap pixels (HRNet: 2 at 64x48, 3 at 96x72).

    Returns:
        (..., K, H, W) float32.
    """
    points = np.asarray(points, np.float32)
    scale = np.float32(-0.5 / sigma**2)
    columns = np.exp(scale * (np.arange(size[0], dtype=np.float32) - points[..., 0:1]) ** 2)
    rows = np.exp(scale * (np.arange(size[1], dtype=np.float32) - points[..., 1:2]) ** 2)
    rows = rows * (np.asarray(visible) > 0)[..., None].astype(np.float32)
    return rows[..., :, None] * columns[..., None, :]


def peaks(heatmaps: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The pixel (..., K, 2) int64, as (x, y), and the value (..., K) float32 of each heatmap's maximum."""
    flat = heatmaps.reshape(*heatmaps.shape[:-2], -1)
    index = flat.argmax(axis=-1)
    scores = np.take_along_axis(flat, index[..., None], axis=-1)[..., 0].astype(np.float32)
    rows, columns = np.divmod(index, heatmaps.shape[-1])
    return np.stack([columns, rows], axis=-1), scores


def _values_at(heatmaps: NDArray[np.floating], xy: NDArray[np.int64], dx: int, dy: int) -> NDArray[np.float64]:
    """The values (N,) of maps (N, H, W) at (x + dx, y + dy), clamped to the map."""
    height, width = heatmaps.shape[-2:]
    x = np.clip(xy[:, 0] + dx, 0, width - 1)
    y = np.clip(xy[:, 1] + dy, 0, height - 1)
    return heatmaps[np.arange(len(heatmaps)), y, x].astype(np.float64)


def decode_argmax(heatmaps: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decode to the maximum, moved a quarter pixel towards the higher neighbour (HRNet's ``get_final_preds``).

    As in the official code, the quarter is added only if column and row of the maximum are above 1 and below the last,
    and a heatmap without a positive value decodes to (0, 0).

    Args:
        heatmaps: (..., K, H, W).

    Returns:
        Points (..., K, 2) float32 in heatmap pixels and the maxima (..., K) float32.
    """
    height, width = heatmaps.shape[-2:]
    xy, scores = peaks(heatmaps)
    maps, flat = heatmaps.reshape(-1, height, width), xy.reshape(-1, 2)
    flat = np.where(scores.reshape(-1, 1) > 0, flat, 0)
    inner = (flat[:, 0] > 1) & (flat[:, 0] < width - 1) & (flat[:, 1] > 1) & (flat[:, 1] < height - 1)
    slope = np.stack(
        [
            _values_at(maps, flat, 1, 0) - _values_at(maps, flat, -1, 0),
            _values_at(maps, flat, 0, 1) - _values_at(maps, flat, 0, -1),
        ],
        axis=1,
    )
    points = flat + 0.25 * np.sign(slope) * inner[:, None]
    return points.reshape(xy.shape).astype(np.float32), scores


def dark_kernel(rows: int) -> int:
    """Width in pixels of DARK's blur for maps with that many rows: 5 for 32, and the published 11 for 64 and 17 for 96.

    It is 6 sigma - 1, rounded to an odd number, where sigma is that of HRNet's Gaussian: rows / 32.
    """
    return max(3, 2 * round((6 * rows / 32 - 2) / 2) + 1)


def decode_dark(
    heatmaps: NDArray[np.floating], kernel: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decode to the maximum, refined by a Newton step on the log of the blurred map (DARK, arXiv 1910.06278, eq. 9).

    Args:
        heatmaps: (..., K, H, W).
        kernel: Width of the blur in pixels, odd and at least 3; None takes `dark_kernel`.

    Returns:
        Points (..., K, 2) float32 in heatmap pixels and the maxima (..., K) float32 of the heatmaps before the blur.

    Raises:
        ValueError: If the kernel is even or less than 3.
    """
    height, width = heatmaps.shape[-2:]
    kernel = dark_kernel(height) if kernel is None else kernel
    if kernel < 3 or kernel % 2 == 0:
        raise ValueError(f"the blur of DARK decoding must have an odd kernel of at least 3, got {kernel}")
    xy, scores = peaks(heatmaps)
    flat = np.where(scores.reshape(-1, 1) > 0, xy.reshape(-1, 2), 0)
    blurred = _blurred_around(heatmaps.reshape(-1, height, width), flat, kernel)
    top = blurred.max(axis=(1, 2), keepdims=True)
    heights = np.maximum(scores.reshape(-1, 1, 1), 1e-10)
    log = np.log(np.maximum(blurred * (heights / np.where(top > 0, top, 1.0)), 1e-10))
    inner = (flat[:, 0] > 1) & (flat[:, 0] < width - 2) & (flat[:, 1] > 1) & (flat[:, 1] < height - 2)
    step = _newton_step(log) * inner[:, None]
    return (flat + step).reshape(xy.shape).astype(np.float32), scores


def _blurred_around(heatmaps: NDArray[np.floating], xy: NDArray[np.int64], kernel: int) -> NDArray[np.float64]:
    """The 5x5 pixels (N, 5, 5) around (x, y) of maps (N, H, W) after a Gaussian blur; zero outside the maps."""
    reach = (kernel - 1) // 2 + 2
    padded = np.pad(heatmaps, ((0, 0), (reach, reach), (reach, reach)))
    offsets = np.arange(2 * reach + 1)
    rows, columns = xy[:, 1, None] + offsets, xy[:, 0, None] + offsets
    windows = padded[np.arange(len(heatmaps))[:, None, None], rows[:, :, None], columns[:, None, :]]
    weights = cv2.getGaussianKernel(kernel, 0)[:, 0]
    blur = np.stack([np.pad(weights, (i, 4 - i)) for i in range(5)])
    return np.einsum("ri,nij,cj->nrc", blur, windows.astype(np.float64), blur, optimize=True)


def _newton_step(log: NDArray[np.float64]) -> NDArray[np.float64]:
    """-Hessian^-1 gradient (N, 2) in the middle of (N, 5, 5), at most 1 pixel per axis; 0 if there is no maximum."""
    here = log[:, 2, 2]
    dx, dy = 0.5 * (log[:, 2, 3] - log[:, 2, 1]), 0.5 * (log[:, 3, 2] - log[:, 1, 2])
    dxx = 0.25 * (log[:, 2, 4] - 2 * here + log[:, 2, 0])
    dyy = 0.25 * (log[:, 4, 2] - 2 * here + log[:, 0, 2])
    dxy = 0.25 * (log[:, 3, 3] - log[:, 1, 3] - log[:, 3, 1] + log[:, 1, 1])
    determinant = dxx * dyy - dxy**2
    usable = (determinant > 1e-12) & (dxx < 0)
    safe = np.where(usable, determinant, 1.0)
    step = np.stack([-(dyy * dx - dxy * dy), -(dxx * dy - dxy * dx)], axis=1) / safe[:, None]
    return np.clip(np.where(usable[:, None], step, 0.0), -1.0, 1.0)


def flip_back(
    heatmaps: NDArray[np.floating], flip_order: NDArray[np.int64], *, shift: bool = True
) -> NDArray[np.floating]:
    """Map the heatmaps of a mirrored crop back onto the crop (HRNet's flip test with SHIFT_HEATMAP).

    Mirrors the columns, swaps left and right joints, and shifts by one pixel to the right, because heatmap pixel u
    lies at input pixel 4 u. Column 0 keeps its value.

    Args:
        heatmaps: (..., K, H, W).
        flip_order: (K,) the joints of a mirrored image, see `kdlib.skeletons.skeleton.Skeleton.flip_order`.
        shift: Shift by one pixel; False for networks trained with UDP, whose last column lies at the last column of
            the crop (Huang et al. 2020, arXiv 1911.07524).

    Returns:
        A new array of the same shape and dtype.
    """
    mirrored = heatmaps[..., flip_order, :, ::-1]
    moved = mirrored.copy()
    if shift:
        moved[..., 1:] = mirrored[..., :-1]
    return moved


def flip_average(
    heatmaps: NDArray[np.floating], mirrored: NDArray[np.floating], flip_order: NDArray[np.int64], *, shift: bool = True
) -> NDArray[np.floating]:
    """HRNet's flip test: the mean (..., K, H, W) of a crop's heatmaps and those of its mirror, see `flip_back`."""
    return (heatmaps + flip_back(mirrored, flip_order, shift=shift)) * np.asarray(0.5, heatmaps.dtype)


DECODERS = {"argmax": decode_argmax, "dark": decode_dark}
"""Decoders by the names that commands and configurations use."""
