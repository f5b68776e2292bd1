"""Runs a teacher once over a data set and writes its heatmaps to a store.

python -m precompute --data DIR --teacher hrnet_w32_256x192 --store train.zarr
precompute.label(data="DIR", teacher=my_function, input_size=(192, 256), ..., store="train.zarr")     # in Python
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from precompute.run.labelling import label

__all__ = ["label"]


def __getattr__(name: str) -> Any:
    """Import `label` where it is first used: it needs torch, and the command's --help does not."""
    if name != "label":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from precompute.run.labelling import label

    return label
