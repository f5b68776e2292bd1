"""COCO's average precision when some pictures count more often than others: what a bootstrap asks for again and again.

Which prediction finds which person does not depend on how often a picture counts, so pycocotools settles it once; the
precision of each draw is then a few sums.
"""

import dataclasses
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Matches:
    """Predictions of D persons in I pictures, the most confident first, at each of T OKS thresholds.

    Predictions that COCO leaves out at a threshold (they lie on a crowd or on a person without labels) are neither
    ``found`` nor ``wrong`` there.
    """

    image_ids: NDArray[np.int64]
    """(I,) the pictures, ascending."""
    picture: NDArray[np.int64]
    """(D,) position of the prediction's picture, 0 to I - 1."""
    found: NDArray[np.bool_]
    """(T, D) a labelled person was found."""
    wrong: NDArray[np.bool_]
    """(T, D) nobody was there."""
    persons: NDArray[np.int64]
    """(I,) labelled persons of each picture."""
    recalls: NDArray[np.float64]
    """Where precision is looked at."""

    @classmethod
    def of(cls, evaluation: Any) -> Self:
        """Take them from a `COCOeval` of one category that was evaluated."""
        images = evaluation.params.imgIds
        of_all_sizes = evaluation.evalImgs[: len(images)]
        seen = [(i, found) for i, found in enumerate(of_all_sizes) if found is not None]
        persons = np.zeros(len(images), np.int64)
        for i, found in seen:
            persons[i] = np.count_nonzero(np.asarray(found["gtIgnore"]) == 0)
        thresholds = len(evaluation.params.iouThrs)

        def of_predictions(name: str) -> NDArray[Any]:
            parts = [np.asarray(found[name]).reshape(thresholds, -1) for _, found in seen]
            return np.concatenate([np.zeros((thresholds, 0)), *parts], axis=1) != 0

        scores = np.concatenate([np.zeros(0), *(found["dtScores"] for _, found in seen)])
        picture = np.concatenate([np.zeros(0, np.int64), *(np.full(len(f["dtScores"]), i) for i, f in seen)])
        order = np.argsort(-scores, kind="stable")
        matched, ignored = of_predictions("dtMatches")[:, order], of_predictions("dtIgnore")[:, order]
        found, wrong = matched & ~ignored, ~matched & ~ignored
        recalls = np.asarray(evaluation.params.recThrs)
        return cls(np.asarray(images, np.int64), picture[order], found, wrong, persons, recalls)

    def average_precision(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Average precision in percent at each OKS threshold (T,); NaN where no person is labelled.

        Args:
            counts: (I,) how often each picture counts. Ones give COCO's numbers: AP50 is the first, AP their mean.
        """
        people = int((self.persons * counts).sum())
        if not people:
            return np.full(len(self.found), np.nan)
        weights = counts[self.picture]
        found, wrong = np.cumsum(self.found * weights, axis=1), np.cumsum(self.wrong * weights, axis=1)
        precision = found / (found + wrong + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        ends = np.pad(best_from_here, ((0, 0), (0, 1)))  # recall that is never reached has precision 0
        reached = [np.searchsorted(row, self.recalls) for row in found / people]
        return 100 * np.array([row[at].mean() for row, at in zip(ends, reached, strict=True)])
