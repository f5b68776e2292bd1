"""Ways to look at a run: the report, TensorBoard, FiftyOne, and drawings of skeletons and heatmaps."""

MIN_LABELS = 6
"""Smallest number of labelled joints of a person who is shown as an example, for skeletons of COCO's size or larger."""


def enough_labels(joints: int) -> int:
    """Smallest number of labelled joints of a person who is shown as an example: a third of K, at most `MIN_LABELS`."""
    return min(MIN_LABELS, -(-joints // 3))
