"""The precision of fp32 on a GPU."""

import pytest
import torch

from kdlib.machine.device import forbid_tf32, uses_tf32

OWNERS = (torch.backends.cudnn, torch.backends.cuda.matmul)


@pytest.mark.parametrize("allowed", OWNERS, ids=["convolutions", "products"])
def test_neither_convolutions_nor_products_use_tf32(allowed):
    before = [owner.allow_tf32 for owner in OWNERS]
    try:
        for owner in OWNERS:
            owner.allow_tf32 = owner is allowed
        assert uses_tf32()
        forbid_tf32()
        assert [owner.allow_tf32 for owner in OWNERS] == [False, False]
        assert not uses_tf32()
    finally:
        for owner, value in zip(OWNERS, before, strict=True):
            owner.allow_tf32 = value
