"""Resampling frames and heatmaps of a whole batch in torch, on any device, by the formulas of the compiled kernels.

`warp_frames` gives the pixels of `kdlib.resample.packed.warp_packed`, and `mean_maps` the heatmaps of
`kdlib.resample.maps.mean_heatmaps`. Every operation is one of torch's, so both run on a GPU; nothing waits for the
device. The compiled kernels compute only what a pixel needs; here every pixel takes the same path, and `torch.where`
chooses. Coordinates are float64 where theirs are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.resample.maps import AFTER, BEFORE

_UNIT = 65536.0
"""Steps per pixel of `kdlib.resample.packed`."""


def warp_frames(frames: Tensor, which: Tensor, inverses: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Resample frames bilinearly; see `kdlib.resample.packed.warp_packed`.

    Args:
        frames: (N, H, W, 3) uint8.
        which: (B,) int64, the frame of each sample.
        inverses: (B, 2, 3) float64, pixels of the result to pixels of the frame.
        output_size: Width and height of the result.

    Returns:
        (B, height, width, 3) uint8.
    """
    (count, rows, columns, _), (width, height) = frames.shape, output_size
    u = torch.arange(width, device=frames.device, dtype=torch.float64)
    v = torch.arange(height, device=frames.device, dtype=torch.float64)[:, None]
    top, left, fast_y, fast_x, is_fast, is_black = _fast_path(inverses, u, v, rows, columns)
    a, b, c, d, y0, y1, x0, x1 = _taps(inverses, u, v, rows, columns)

    corner = ((fast_x * fast_y + 128) >> 8).float()
    right, down = fast_x.float() - corner, fast_y.float() - corner
    fast = (256 - fast_x.float() - down, right, down, corner)
    a, b, c, d = (torch.where(is_fast, w / 256, t) for w, t in zip(fast, (a, b, c, d), strict=True))
    y0, y1 = torch.where(is_fast, top, y0), torch.where(is_fast, top + 1, y1)
    x0, x1 = torch.where(is_fast, left, x0), torch.where(is_fast, left + 1, x1)

    pixels, base = frames.view(count * rows * columns, 3), (which * (rows * columns))[:, None, None]
    upper, lower = base + y0 * columns, base + y1 * columns
    north = _times(pixels[upper + x0], a) + _times(pixels[upper + x1], b)
    south = _times(pixels[lower + x0], c) + _times(pixels[lower + x1], d)
    values = (north + south + 0.5).to(torch.uint8)
    return values.masked_fill_(is_black[..., None], 0)


def _times(pixels: Tensor, weights: Tensor) -> Tensor:
    return pixels.float() * weights[..., None]


def _fast_path(
    inverses: Tensor, u: Tensor, v: Tensor, rows: int, columns: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The pixels whose four neighbours are all in the frame, in fixed point, as in `kdlib.resample.packed`.

    Returns:
        All (B, h, w): row and column of the upper left neighbour, int64, 0 outside the fast path; fractions of y and x
        in 1/256, int64; whether a pixel is on the fast path; whether it has no neighbour in the frame.
    """
    width, height = len(u), len(v)
    slope_x, slope_y = inverses[:, 0, 0, None, None], inverses[:, 1, 0, None, None]
    start_x = inverses[:, 0, 1, None, None] * v + inverses[:, 0, 2, None, None]  # (B, h, 1)
    start_y = inverses[:, 1, 1, None, None] * v + inverses[:, 1, 2, None, None]
    margin = 0.01 + width / _UNIT
    begin, end = torch.zeros_like(start_x), torch.full_like(start_x, width - 1)
    begin, end = _span(slope_x, start_x, -1.01, columns + 0.01, begin, end)
    begin, end = _span(slope_y, start_y, -1.01, rows + 0.01, begin, end)
    first, last = _span(slope_x, start_x, margin, columns - 1 - margin, begin, end)
    first, last = _span(slope_y, start_y, margin, rows - 1 - margin, first, last)
    reach = inverses[..., 0].abs() * width + inverses[..., 1].abs() * height + inverses[..., 2].abs()
    exact = (reach < 1e9).all(-1)[:, None, None]
    is_fast = exact & (u >= first) & (u <= last)
    step_x, step_y = ((slope * _UNIT).round().long() for slope in (slope_x, slope_y))
    along = (u - first).long()
    x = torch.where(is_fast, ((start_x + slope_x * first) * _UNIT).round().long() + step_x * along, 0)
    y = torch.where(is_fast, ((start_y + slope_y * first) * _UNIT).round().long() + step_y * along, 0)
    return y >> 16, x >> 16, (y >> 8) & 255, (x >> 8) & 255, is_fast, (u < begin) | (u > end)


def _span(slope: Tensor, start: Tensor, low: float, high: float, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """First and last u in first..last with low <= slope * u + start <= high; (first, first - 1) if there is none.

    As `kdlib.resample.exact.span`, for float64 tensors of whole numbers.
    """
    level = slope.abs() < 1e-9
    safe = torch.where(level, 1.0, slope)
    one, other = (low - start) / safe, (high - start) / safe
    begin = torch.maximum(torch.minimum(one, other).clamp_min(-1e9).ceil(), first)
    end = torch.minimum(torch.maximum(one, other).clamp_max(1e9).floor(), last)
    begin, end = torch.where(level, first, begin), torch.where(level, last, end)
    empty = (begin > end) | (last < first) | (level & ((start < low) | (start > high)))
    return torch.where(empty, first, begin), torch.where(empty, first - 1, end)


def _taps(inverses: Tensor, u: Tensor, v: Tensor, rows: int, columns: int) -> tuple[Tensor, ...]:
    """Four weights (B, h, w) float32, 0 outside the frame, and the rows and columns that they belong to, int64.

    As `kdlib.resample.exact.taps`.
    """
    x, y = (
        (inverses[:, axis, 0, None, None] * u + inverses[:, axis, 1, None, None] * v + inverses[:, axis, 2, None, None])
        .float()
        .clamp(-1, size)
        for axis, size in ((0, columns), (1, rows))
    )
    (left, right, x0, x1), (up, down, y0, y1) = (_neighbours(x, columns), _neighbours(y, rows))
    return up * left, up * right, down * left, down * right, y0, y1, x0, x1


def _neighbours(at: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The weights of the two whole positions around each one, 0 outside 0..size - 1, and these positions, limited."""
    floor = at.floor()
    after = at - floor
    before = torch.where((floor >= 0) & (floor < size), 1 - after, 0.0)
    after = torch.where(floor + 1 < size, after, 0.0)
    place = floor.long()
    return before, after, place.clamp(0, size - 1), (place + 1).clamp(0, size - 1)


def mean_maps(views: Tensor, inverses: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Resample the heatmaps of several views of each sample onto one grid and average them.

    See `kdlib.resample.maps.mean_heatmaps`.

    Args:
        views: (B, V, K, H, W) float32.
        inverses: (B, V, 2, 3) float64, pixels of the result to pixels of each view's maps.
        output_size: Width and height of the result.

    Returns:
        (B, K, height, width) float32.
    """
    (batch, count, joints, rows, columns), (width, height) = views.shape, output_size
    bordered = F.pad(views, (BEFORE, AFTER, BEFORE, AFTER))
    u = torch.arange(width, device=views.device, dtype=torch.float32)
    v = torch.arange(height, device=views.device, dtype=torch.float64)[:, None]
    lines, pixels = rows + BEFORE + AFTER, columns + BEFORE + AFTER
    slope_x, slope_y = (inverses[:, :, axis, 0, None, None].float() for axis in (0, 1))  # (B, V, 1, 1)
    offset_x, offset_y = (
        inverses[:, :, axis, 1, None, None] * v + inverses[:, :, axis, 2, None, None] for axis in (0, 1)
    )
    weight = _coverage(slope_x, slope_y, offset_x, offset_y, u, rows, columns) if count > 1 else None

    x = ((offset_x + 1).float() + slope_x * u).clamp(0, pixels - 2)
    y = ((offset_y + 1).float() + slope_y * u).clamp(0, lines - 2)
    column, row = x.long(), y.long()
    right, down = x - column, y - row
    up = 1 - down
    if weight is not None:
        up, down = weight * up, weight * down
    corner = (row * pixels + column).view(batch, count, 1, -1)
    flat = bordered.view(batch, count, joints, lines * pixels)
    taps = (
        (up * (1 - right), corner),
        (up * right, corner + 1),
        (down * (1 - right), corner + pixels),
        (down * right, corner + pixels + 1),
    )
    total = torch.zeros((), device=views.device)
    for view in range(count):
        for share, place in taps:
            values = flat[:, view].gather(-1, place[:, view].expand(-1, joints, -1))
            total = total + values * share[:, view].reshape(batch, 1, -1)
    return total.view(batch, joints, height, width)


def _coverage(
    slope_x: Tensor, slope_y: Tensor, offset_x: Tensor, offset_y: Tensor, u: Tensor, rows: int, columns: int
) -> Tensor:
    """1 over the number of views that cover a pixel, or 1 where that is below 1; (B, 1, h, w) float32."""
    x, y = slope_x * u + offset_x.float(), slope_y * u + offset_y.float()
    wide, high = torch.minimum(x + 1, columns - x).clamp(0, 1), torch.minimum(y + 1, rows - y).clamp(0, 1)
    return (wide * high).sum(1, keepdim=True).clamp_min(1).reciprocal()
