"""Input pixels a heatmap pixel, the stride of a student's maps: heatmap pixel u lies at input pixel stride * u."""

from typing import Final

from train.errors import TrainError

MAP_STRIDES: Final = (2, 4, 8)
STRIDE: Final = 4
"""Where no other is asked for: HRNet's."""


def check_stride(stride: int) -> None:
    """Refuse what is no stride of a student's maps.

    Raises:
        TrainError: If it is none of `MAP_STRIDES`.
    """
    if stride not in MAP_STRIDES:
        raise TrainError(f"a student's maps have a stride of {', '.join(map(str, MAP_STRIDES))}, got {stride}")
