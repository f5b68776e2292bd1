"""Decoding a store's heatmaps: threads and their number change nothing, and only the needed views are read."""

import threading

import numpy as np
import pytest

from kdlib.heatmaps import decode_argmax, decode_dark, flip_average
from kdlib.metrics.evaluation import BATCH, teacher_predictions
from kdlib.skeletons.skeleton import COCO

COUNT, VIEWS, SIZE = 2 * BATCH + 7, 3, (24, 16)  # rows, columns


@pytest.fixture(scope="module")
def maps():
    """(COUNT, VIEWS, 17, 24, 16) maps with a peak in noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    x, y = rng.uniform(2, SIZE[1] - 2, (2, COUNT, VIEWS, 17, 1, 1))
    peaks = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    return (peaks + rng.normal(0, 0.02, peaks.shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("flips", "decoder"), [((0, 1, 0), "argmax"), ((0, 0, 1), "argmax"), ((0,), "dark"), ((0, 1), "dark")]
)
def test_predictions_are_in_the_order_of_the_rows_for_any_number_of_threads(maps, flips, decoder):
    scale, shift = np.random.default_rng(1).uniform(0.5, 2, (2, COUNT))
    affines = np.zeros((COUNT, len(flips), 2, 3))
    affines[:, 0, 0, 0] = affines[:, 0, 1, 1] = scale
    affines[:, 0, :, 2] = shift[:, None]
    averaged = flip_average(maps[:, 0], maps[:, 1], COCO.flip_order) if len(flips) > 1 and flips[1] else maps[:, 0]
    points, heights = (decode_dark if decoder == "dark" else decode_argmax)(averaged)
    expected = (points * 4.0 - shift[:, None, None]) / scale[:, None, None]
    asked, done = set(), []

    def heatmaps(rows, views):
        asked.add((len(rows), *views))
        return maps[rows][:, list(views)]

    found = [
        teacher_predictions(
            heatmaps,
            affines,
            np.array(flips),
            4.0,
            decoder,
            skeleton=COCO,
            threads=threads,
            progress=lambda *now: done.append(now),
        )
        for threads in (1, 3, None)
    ]
    np.testing.assert_allclose(found[0][0], expected, atol=1e-4)
    np.testing.assert_array_equal(found[0][1], heights)
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            assert one.tobytes() == another.tobytes()
    needed = (0, 1) if len(flips) > 1 and flips[1] else (0,)
    assert asked == {(BATCH, *needed), (7, *needed)}
    assert done == 3 * [(BATCH, COUNT), (2 * BATCH, COUNT), (COUNT, COUNT)]


def test_the_first_error_is_raised_and_what_has_not_begun_is_not_read():
    begun, release = [], threading.Event()

    def heatmaps(rows, views):
        begun.append(int(rows[0]))
        if rows[0] == 0:
            raise ValueError("row 0 is damaged")
        release.wait(0.2)
        return np.zeros((len(rows), len(views), 17, *SIZE), np.float32)

    with pytest.raises(ValueError, match="row 0 is damaged"):
        teacher_predictions(
            heatmaps, np.tile(np.eye(2, 3), (100 * BATCH, 1, 1, 1)), np.zeros(1), 4.0, skeleton=COCO, threads=2
        )
    assert 0 in begun
    assert len(begun) < 50
