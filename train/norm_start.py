"""Where added norms begin: the network answers as its ImageNet weights do, until it learns something else."""

from typing import Final

import numpy as np
import torch

from cache.errors import StoreFormatError
from kdlib.images import normalise_images
from train.conv_norms import norm_entries, observed
from train.dataset import StoreDataset
from train.errors import BadRecordError
from train.loader import is_bad_record
from train.students import Student

OBSERVED: Final = 64
"""Persons whose plain crops decide it, spread over the store."""


def start_norms(model: Student, dataset: StoreDataset) -> None:
    """Let a student's added norms look at some persons of a store; a student without any stays as it is.

    Damaged records are passed over, as training will come to them and say so. Without one that is whole, the norms
    begin as torch makes them.
    """
    if not norm_entries(model):
        return
    pictures = []
    for index in np.linspace(0, len(dataset) - 1, min(OBSERVED, len(dataset))).astype(int):
        try:
            pictures.append(dataset[int(index)]["image"])
        except (StoreFormatError, BadRecordError) as error:
            if not is_bad_record(error):
                raise
    if pictures:
        device = next(model.parameters()).device
        with torch.no_grad(), observed(model):
            model.taps(normalise_images(torch.stack(pictures).to(device)))
