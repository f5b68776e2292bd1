"""The positions of a network's features on the image, found by tracing its operators.

Feature u of a tensor lies at input pixel ``first + u * step``, the centre of its receptive field. A convolution or pool
with kernel k, stride s and padding p moves it by ((k - 1) / 2 - p) steps and multiplies the step by s. Padding and
resampling move it too. Where paths meet, the mean of their centres is taken. The trace runs the network once on torch's
meta device, which computes shapes only, so every operator is seen, whatever modules the network consists of. Operators
that mix distant pixels, such as attention, have no centre; a residual path beside them keeps its own.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


class Grid(NamedTuple):
    """Positions of features in input pixels, each (2,) as y, x."""

    first: NDArray[np.float64]
    """Position of feature 0."""
    step: NDArray[np.float64]
    """Distance between neighbours."""


def _pair(value: Any) -> NDArray[np.float64]:
    """One or two numbers as two."""
    pair = np.atleast_1d(np.asarray(value, np.float64))
    return np.repeat(pair, 2) if len(pair) == 1 else pair


def _apply_window(grid: Grid, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Grid:
    offset = (_pair(kernel) - 1) * _pair(dilation) / 2 - _pair(padding)
    return Grid(grid.first + offset * grid.step, grid.step * _pair(stride))


def _convolution(grid: Grid, args: Any, out: Tensor) -> Grid | None:
    _, weight, _, stride, padding, dilation, transposed, *_ = args
    return None if transposed or weight.ndim != 4 else _apply_window(grid, weight.shape[2:], stride, padding, dilation)


def _pool(grid: Grid, args: Any, out: Tensor) -> Grid | None:
    _, kernel, *rest = args
    return _apply_window(grid, kernel, rest[0] if rest and rest[0] else kernel, rest[1] if len(rest) > 1 else 0)


def _pad(grid: Grid, args: Any, out: Tensor) -> Grid | None:
    _, padding, *_ = args
    left, top = padding[0], padding[2] if len(padding) > 2 else 0
    return Grid(grid.first - np.array([top, left], np.float64) * grid.step, grid.step)


def _resample(grid: Grid, args: Any, out: Tensor) -> Grid | None:
    factor = np.array(out.shape[2:], np.float64) / np.array(args[0].shape[2:], np.float64)
    return Grid(grid.first + (0.5 / factor - 0.5) * grid.step, grid.step / factor)


MOVING: Final[dict[str, Callable[[Grid, Any, Tensor], Grid | None]]] = {
    "aten::convolution": _convolution,
    "aten::max_pool2d_with_indices": _pool,
    "aten::avg_pool2d": _pool,
    "aten::constant_pad_nd": _pad,
    "aten::upsample_nearest2d": _resample,
    "aten::upsample_bilinear2d": _resample,
}
"""Operators that move features: from the grid of their input, their arguments and output to the grid of the output."""
MIXING: Final = frozenset(
    f"aten::{name}"
    for name in (
        *("bmm", "mean", "sum", "amax", "_softmax", "slice", "select", "index", "gather", "roll", "im2col", "unfold"),
        *("_adaptive_avg_pool2d", "adaptive_max_pool2d", "pixel_unshuffle", "split_with_sizes", "_fft_r2c"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math"),
    )
)
"""Operators whose output has no centre. Operators in neither set leave features where they are."""


class _Trace(TorchDispatchMode):
    """Records the grid of every tensor that is made while it is entered."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        start = Grid(np.zeros(2), np.ones(2))
        self.grids: dict[int, Grid] = {id(image): start}
        self._kept: list[Any] = [image]  # keeps all tensors alive, so that no id is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [out for out in _tensors(result) if out.ndim > 1]
        self._kept.append(result)
        grid = self._grid_of(func._schema.name, args, outputs[0]) if outputs else None
        for out in outputs:
            if grid is None:
                self.grids.pop(id(out), None)
            else:
                self.grids[id(out)] = grid
        return result

    def _grid_of(self, name: str, args: Any, out: Tensor) -> Grid | None:
        inputs = [self.grids[id(tensor)] for tensor in _tensors(args) if id(tensor) in self.grids]
        if not inputs or name in MIXING:
            return None
        if name in MOVING:
            return MOVING[name](inputs[0], args, out)
        return Grid(np.mean([g.first for g in inputs], axis=0), inputs[0].step)


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested lists and tuples."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def trace_grids(network: nn.Module, size: tuple[int, int]) -> list[tuple[tuple[int, ...], Grid | None]]:
    """The shape and the grid of each tensor that a network returns for one image.

    Args:
        network: A module on the meta device, in evaluation mode, that returns a list or a tuple of tensors.
        size: Width and height of the image in pixels.

    Returns:
        For every output its shape, and its grid or None where it has no centre.
    """
    image = torch.empty(1, 3, size[1], size[0], device="meta")
    with torch.no_grad(), _Trace(image) as trace:
        outputs = list(network(image))
    return [(tuple(out.shape), trace.grids.get(id(out))) for out in outputs]
