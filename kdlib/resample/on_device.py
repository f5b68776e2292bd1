"""Resampling frames and heatmaps of a whole batch in torch, on any device, by the formulas of the compiled kernels.

`warp_frames` gives the pixels of `kdlib.resample.packed.warp_packed`, and `mean_maps` the heatmaps of
`kdlib.resample.maps.mean_heatmaps`. Every operation is one of torch's, so both run on a GPU; nothing waits for the
device. The compiled kernels compute only what a pixel needs; here every pixel takes the same path, and `torch.where`
chooses. Coordinates are float64 where theirs are.

A frame has a border of black pixels for this, as a map has one of zeros, so that no neighbour needs a bounds check.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdlib.resample.maps import AFTER, BEFORE

_UNIT = 65536.0
"""Steps per pixel of `kdlib.resample.packed`."""


def bordered_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a frame with its border; (width, height) is the size without."""
    return size[0] + BEFORE + AFTER, size[1] + BEFORE + AFTER


def without_border(frames: Tensor) -> Tensor:
    """(..., H, W, 3): frames (..., H + 3, W + 3, 3) without their border, in the same memory."""
    return frames[..., BEFORE:-AFTER, BEFORE:-AFTER, :]


def warp_frames(frames: Tensor, which: Tensor, inverses: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Resample frames bilinearly; see `kdlib.resample.packed.warp_packed`.

    Args:
        frames: (N, H + 3, W + 3, 3) uint8, contiguous, the frames with a border of black pixels, `without_border`.
        which: (B,) int64, the frame of each sample.
        inverses: (B, 2, 3) float64, pixels of the result to pixels of the frame.
        output_size: Width and height of the result.

    Returns:
        (B, height, width, 3) uint8.
    """
    (count, lines, pixels, _), (width, height) = frames.shape, output_size
    rows, columns = lines - BEFORE - AFTER, pixels - BEFORE - AFTER
    u = torch.arange(width, device=frames.device, dtype=torch.float64)
    v = torch.arange(height, device=frames.device, dtype=torch.float64)[:, None]
    slope_x, slope_y = inverses[:, 0, 0, None, None], inverses[:, 1, 0, None, None]
    start_x = inverses[:, 0, 1, None, None] * v + inverses[:, 0, 2, None, None]  # (B, h, 1)
    start_y = inverses[:, 1, 1, None, None] * v + inverses[:, 1, 2, None, None]

    # Pixels whose four neighbours are all in the frame: positions in 1/65536 pixel, fractions in 1/256.
    first, last = _inside(inverses, (slope_x, slope_y), (start_x, start_y), (columns, rows), output_size)
    along = torch.arange(width, device=frames.device, dtype=torch.int32)
    is_inside = (along >= first) & (along <= last)
    x, y = (
        _fixed(start + slope * first) + _fixed(slope) * (along - first)
        for start, slope in ((start_x, slope_x), (start_y, slope_y))
    )
    # All others: positions rounded to float32. Outside, they lie on the border.
    near_x = (start_x + slope_x * u).float().clamp(-BEFORE, columns)
    near_y = (start_y + slope_y * u).float().clamp(-BEFORE, rows)
    column, row = (torch.where(is_inside, at >> 16, near.floor().int()) for at, near in ((x, near_x), (y, near_y)))
    right, down = (
        torch.where(is_inside, (at >> 8 & 255) / 256, near - place)
        for at, near, place in ((x, near_x, column), (y, near_y, row))
    )
    corner = right * down
    corner = torch.where(is_inside, (corner * 256 + 0.5).floor() / 256, corner)
    right, down = right - corner, down - corner
    weights = torch.stack([1 - right - down - corner, right, down, corner])

    place = (row + BEFORE) * pixels + (column + BEFORE) + which[:, None, None] * (lines * pixels)
    taps = frames.view(count * lines * pixels, 3)[torch.stack([place, place + 1, place + pixels, place + pixels + 1])]
    return (taps * weights[..., None]).sum(0).add_(0.5).to(torch.uint8)


def _fixed(values: Tensor) -> Tensor:
    """Numbers of pixels in 1/65536 pixel, int32."""
    return (values * _UNIT).round().int()


def _inside(
    inverses: Tensor,
    slopes: tuple[Tensor, Tensor],
    starts: tuple[Tensor, Tensor],
    sizes: tuple[int, int],
    output_size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """First and last column of each line whose four neighbours are all in the frame, (B, h, 1) int32.

    As in `kdlib.resample.packed`, where the first column matters for the rounding of the positions.
    """
    (slope_x, slope_y), (start_x, start_y), (columns, rows), (width, height) = slopes, starts, sizes, output_size
    margin = 0.01 + width / _UNIT
    first, last = torch.zeros_like(start_x), torch.full_like(start_x, width - 1)
    for slope, start, low, high in (
        (slope_x, start_x, -1.01, columns + 0.01),
        (slope_y, start_y, -1.01, rows + 0.01),
        (slope_x, start_x, margin, columns - 1 - margin),
        (slope_y, start_y, margin, rows - 1 - margin),
    ):
        first, last = _span(slope, start, low, high, first, last)
    reach = inverses[..., 0].abs() * width + inverses[..., 1].abs() * height + inverses[..., 2].abs()
    is_exact = (reach < 1e9).all(-1)[:, None, None]
    return first.int(), torch.where(is_exact, last, -1.0).int()


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
    total: Tensor | None = None
    for view in range(count):
        for share, place in taps:
            values = flat[:, view].gather(-1, place[:, view].expand(-1, joints, -1))
            shares = share[:, view].reshape(batch, 1, -1)
            total = values * shares if total is None else total.addcmul_(values, shares)
    assert total is not None  # noqa: S101 - there is a view
    return total.view(batch, joints, height, width)


def _coverage(
    slope_x: Tensor, slope_y: Tensor, offset_x: Tensor, offset_y: Tensor, u: Tensor, rows: int, columns: int
) -> Tensor:
    """1 over the number of views that cover a pixel, or 1 where that is below 1; (B, 1, h, w) float32."""
    x, y = slope_x * u + offset_x.float(), slope_y * u + offset_y.float()
    wide, high = torch.minimum(x + 1, columns - x).clamp(0, 1), torch.minimum(y + 1, rows - y).clamp(0, 1)
    return (wide * high).sum(1, keepdim=True).clamp_min(1).reciprocal()
