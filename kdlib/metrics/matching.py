"""Matching predicted keypoints with the ground truth of their images, as pycocotools does, for all images at once.

`pycocotools.cocoeval.COCOeval` computes OKS pair by pair and compares persons in Python loops. The functions here
compute the same numbers, to the bit: the same operations in the same order, on arrays of many pairs. Their sums run
along the last axis, which numpy adds in the same order as a vector.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

PAIRS_AT_ONCE = 4096
"""Pairs of persons whose OKS is computed at once: the arrays of 17 joints then fit in the processor's cache."""


class Truth(NamedTuple):
    """G annotated persons, in the order of their images."""

    start: NDArray[np.int64]
    """(I + 1,) the persons of image i are start[i] to start[i + 1]."""
    keypoints: NDArray[np.float64]
    """(G, K, 3) x, y in image pixels, and v, positive where the joint is labelled."""
    boxes: NDArray[np.float64]
    """(G, 4) x, y, width, height in image pixels."""
    areas: NDArray[np.float64]
    """(G,) areas in square image pixels."""
    crowd: NDArray[np.bool_]
    """(G,) True for a box around a crowd."""
    uncounted: NDArray[np.bool_]
    """(G,) True for a crowd, and for a person without the labels that the evaluation asks for."""


class Detections(NamedTuple):
    """D predictions, in the order of their images, and the best of each image first."""

    start: NDArray[np.int64]
    """(I + 1,) the predictions of image i are start[i] to start[i + 1]."""
    points: NDArray[np.float64]
    """(D, K, 2) x, y in image pixels."""
    scores: NDArray[np.float64]
    """(D,)"""
    areas: NDArray[np.float64]
    """(D,) areas of the boxes around the points in square image pixels."""


class Matched(NamedTuple):
    """The result of `match_images` for A ranges of areas and T thresholds, as `accumulate` of pycocotools reads it."""

    matched: NDArray[np.bool_]
    """(A, T, D) True where a prediction matches an annotated person."""
    ignored: NDArray[np.bool_]
    """(A, T, D) True where a prediction is neither a true nor a false positive."""
    truth_ignored: NDArray[np.bool_]
    """(A, G) True where an annotated person does not count: a crowd, without labels, or outside the range."""


def starts(numbers: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """(count + 1,) where each of the groups 0 ... count - 1 starts in sorted `numbers`, and where the last one ends."""
    return np.searchsorted(numbers, np.arange(count + 1)).astype(np.int64)


def pairs(first: NDArray[np.integer], count: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (P,), (P,) of each i with first[i], first[i] + 1, ... first[i] + count[i] - 1, in the order of i."""
    i = np.repeat(np.arange(len(count)), count)
    within = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i, first[i] + within


def object_keypoint_similarity(
    found: Detections, truth: Truth, sigmas: NDArray[np.float64], i: NDArray[np.int64], j: NDArray[np.int64]
) -> NDArray[np.float64]:
    """OKS (P,) of predictions i (P,) and annotated persons j (P,): ``COCOeval.computeOks`` of pycocotools.

    Distances count at labelled joints only. Without labels, they are those to the box of twice the size at all joints.
    """
    similarity, variances = np.zeros(len(i)), (sigmas * 2) ** 2
    labelled = truth.keypoints[..., 2] > 0
    joints = np.count_nonzero(labelled, axis=1)
    x, y, width, height = truth.boxes.T
    low, high = np.stack([x - width, y - height], axis=1), np.stack([x + width * 2, y + height * 2], axis=1)
    of_pair = joints[j]
    for count in np.unique(of_pair):
        chosen = np.flatnonzero(of_pair == count)
        for start in range(0, len(chosen), PAIRS_AT_ONCE):
            part = chosen[start : start + PAIRS_AT_ONCE]
            points, person = found.points[i[part]], j[part]
            if count:
                offsets = points - truth.keypoints[person, :, :2]
            else:
                offsets = np.maximum(0, low[person, None] - points) + np.maximum(0, points - high[person, None])
            scale = (truth.areas[person] + np.spacing(1))[:, None]
            error = (offsets[..., 0] ** 2 + offsets[..., 1] ** 2) / variances / scale / 2
            if count:
                error = error[labelled[person]].reshape(len(part), count)
            similarity[part] = np.sum(np.exp(-error), axis=1) / error.shape[1]
    return similarity


def match_images(found: Detections, truth: Truth, params: Any) -> Matched:
    """Match the predictions of each image with its annotated persons: ``COCOeval.evaluateImg`` of pycocotools.

    Args:
        found: Predictions, at most as many per image as the last of ``params.maxDets``.
        truth: Annotated persons of the same images.
        params: The `pycocotools.cocoeval.Params` of a keypoint evaluation.
    """
    persons = np.diff(truth.start)
    image = np.repeat(np.arange(len(persons)), np.diff(found.start))
    i, j = pairs(truth.start[image], persons[image])
    similarity = object_keypoint_similarity(found, truth, np.asarray(params.kpt_oks_sigmas), i, j)
    ranges = np.asarray(params.areaRng, np.float64)
    truth_ignored = truth.uncounted | _outside(truth.areas, ranges)
    outside = _outside(found.areas, ranges)
    persons_of = np.repeat(np.arange(len(persons)), persons)
    order = np.stack([np.lexsort((ignore, persons_of)) for ignore in truth_ignored])
    thresholds = np.minimum(params.iouThrs, 1 - 1e-10)
    matched, ignored = _match(found.start, truth.start, order, similarity, thresholds, truth.crowd, truth_ignored)
    return Matched(matched, ignored | (~matched & outside[:, None]), truth_ignored)


def _outside(areas: NDArray[np.float64], ranges: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(A, N) whether areas (N,) are outside of each of the ranges (A, 2)."""
    return (areas < ranges[:, :1]) | (areas > ranges[:, 1:])


@numba.njit(nogil=True, cache=True)
def _match(
    found_start: NDArray[np.int64],
    truth_start: NDArray[np.int64],
    order: NDArray[np.int64],
    similarity: NDArray[np.float64],
    thresholds: NDArray[np.float64],
    crowd: NDArray[np.bool_],
    truth_ignored: NDArray[np.bool_],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match greedily, the best prediction first, each with the person of the highest OKS who is still free.

    Args:
        found_start: (I + 1,) start of each image in the predictions.
        truth_start: (I + 1,) start of each image in the annotated persons.
        order: (A, G) the persons, image after image, and those who count before those who are ignored.
        similarity: (P,) OKS of every pair of an image, prediction by prediction.
        thresholds: (T,) smallest OKS of a match.
        crowd: (G,)
        truth_ignored: (A, G)

    Returns:
        (A, T, D) whether a prediction is matched, and (A, T, D) whether it is matched with a person who is ignored.
    """
    shape = (len(order), len(thresholds), found_start[-1])
    matched, ignored = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    free = np.ones(len(crowd), np.bool_)
    pair = 0
    for image in range(len(found_start) - 1):
        first, last = found_start[image], found_start[image + 1]
        begin, end = truth_start[image], truth_start[image + 1]
        for area in range(len(order)):
            for threshold in range(len(thresholds)):
                free[begin:end] = True
                for i in range(first, last):
                    offset = pair + (i - first) * (end - begin) - begin
                    j = _best(
                        order[area, begin:end], similarity, offset, thresholds[threshold], free, truth_ignored[area]
                    )
                    if j >= 0:
                        free[j] = crowd[j]
                        matched[area, threshold, i] = True
                        ignored[area, threshold, i] = truth_ignored[area, j]
        pair += (last - first) * (end - begin)
    return matched, ignored


@numba.njit(nogil=True, cache=True)
def _best(
    order: NDArray[np.int64],
    similarity: NDArray[np.float64],
    offset: int,
    least: float,
    free: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
) -> int:
    """The free person j of the highest ``similarity[offset + j]``, at least `least`; -1 if there is none.

    Persons who count are preferred to ignored ones. Of equal persons, the last one is taken.
    """
    best = -1
    for j in order:
        if best >= 0 and ignored[j] and not ignored[best]:
            break
        if free[j] and not similarity[offset + j] < least:
            best, least = j, similarity[offset + j]
    return best
