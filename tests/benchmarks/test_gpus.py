"""Tests of the computed tables of GPU memory and minutes in docs/coco.md."""

from pathlib import Path

import pytest
import torch

from benchmarks.study import gpus

ROOT = Path(__file__).resolve().parents[2]


def test_a_teacher_does_the_published_arithmetic_for_a_crop_and_its_mirror_image():
    """Sun et al. 2019, table 1: HRNet-W32 at 256x192 has 7.10 G multiply-adds; two operations each, two crops."""
    counted = [gpus.count_teacher("hrnet_w32", (192, 256), batch) for batch in (1, 2)]
    one, two = (sum(flops for flops, _ in each.operators) for each in counted)
    assert one == pytest.approx(2 * 2 * 7.10e9, rel=0.09)  # they leave out the branches that nothing reads
    assert two == pytest.approx(2 * one)
    assert len(counted[0].operators) == len(counted[1].operators)
    weights = 2 * 28.5e6  # bytes in bf16
    assert weights < counted[0].peak < counted[1].peak < 2 * counted[0].peak


def test_the_peak_is_of_the_tensors_that_are_alive():
    counter = gpus.Counter()
    with counter:
        kept = torch.empty(1000, device="meta")
        for _ in range(3):
            torch.empty(500, device="meta")
        view = kept[:10]
        del kept
        assert (counter.live, counter.peak) == (4000, 6000)
        del view
    assert counter.live == 0


def test_small_batches_wait_for_the_host_and_large_ones_for_the_gpu():
    slow, fast = gpus.Gpu("slow", 1e9, 1e9), gpus.Gpu("fast", 1e15, 1e18)
    counted = gpus.Counted([(3e6, 1e3), (1e3, 4e6)], 0)
    assert counted.seconds(slow) == pytest.approx(3e6 / (gpus.ARITHMETIC * 1e9) + 4e6 / (gpus.BANDWIDTH * 1e9))
    assert counted.seconds(fast) == 2 * gpus.LAUNCH


def test_the_page_has_the_computed_table():
    page = (ROOT / "docs/coco.md").read_text()
    assert "\n".join(gpus.student_table()) in page
    assert "\n".join(gpus.samples_table()) in page


def test_samples_take_the_same_operators_in_a_batch_of_any_size():
    one, other = (gpus.count_samples((192, 256), size).operators for size in (2, 4))
    assert len(one) == len(other)
    assert sum(size for _, size in other) == pytest.approx(2 * sum(size for _, size in one), rel=0.1)
