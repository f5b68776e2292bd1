"""Training samples from a store, the only part of the library that reads stores."""

from kdlib.samples.distillation import DistillationDataset
from kdlib.samples.views import Augmentation

__all__ = ["Augmentation", "DistillationDataset"]
