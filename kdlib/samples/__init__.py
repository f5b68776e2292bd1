"""Training samples from a store, the only part of the library that reads stores."""

import cache

if not hasattr(cache, "open_store"):
    raise ImportError(
        "kdlib.samples needs the package 'cache' that is installed with kdlib, but Python found "
        f"{cache.__file__} first; rename that file, or move it into a package of your own"
    )

from kdlib.samples.distillation import DistillationDataset
from kdlib.samples.mixture import Part
from kdlib.samples.views import Augmentation

__all__ = ["Augmentation", "DistillationDataset", "Part"]
