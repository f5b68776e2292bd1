"""How sure the difference between two students is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlib.metrics import PCK_THRESHOLDS
from train.evaluate import match
from train.report.comparison import Pair, joint_hits
from train.report.evidence import Subject

DRAWS = 1000


def intervals(store: Any, pairs: Sequence[Pair]) -> list[dict[str, tuple[float, float]]]:
    """For each pair, 95 % intervals of the differences in AP, AP50, AP75 and PCK, by a paired bootstrap over pictures.

    Pictures are drawn, not persons or joints: what is in one picture succeeds and fails together (Efron & Tibshirani
    1993, ch. 13).

    Returns:
        The lowest and the highest difference by metric, distilled minus baseline in points; NaN without labels.
        Draws without a label say nothing and are left out.
    """
    subjects = {id(subject): subject for pair in pairs for subject in (pair.distilled, pair.baseline)}
    drawn = {key: _drawn(store, subject) for key, subject in subjects.items()}
    return [_ends(drawn[id(pair.distilled)], drawn[id(pair.baseline)]) for pair in pairs]


def _ends(
    ours: dict[str, NDArray[np.float64]], theirs: dict[str, NDArray[np.float64]]
) -> dict[str, tuple[float, float]]:
    ends = {}
    for name, values in ours.items():
        known = (values - theirs[name])[~np.isnan(values)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        ends[name] = float(low), float(high)
    return ends


def _drawn(store: Any, subject: Subject) -> dict[str, NDArray[np.float64]]:
    """Metrics of a network on `DRAWS` draws of the pictures, (DRAWS,) each; the draws are everybody's."""
    matches = match(store, subject.predictions)
    pictures = len(matches.image_ids)
    rng = np.random.default_rng(0)
    draws = np.stack([np.bincount(rng.integers(pictures, size=pictures), minlength=pictures) for _ in range(DRAWS)])
    precisions = np.stack([matches.average_precision(counts) for counts in draws])
    values = {"ap": precisions.mean(axis=1), "ap50": precisions[:, 0], "ap75": precisions[:, 5]}
    picture = np.searchsorted(matches.image_ids, store.instances["image_id"][subject.predictions.rows])
    for threshold in PCK_THRESHOLDS:
        hits, labelled = joint_hits(store, subject, threshold)
        right, of = (np.bincount(picture, joints.sum(axis=1), pictures) for joints in (hits, labelled))
        with np.errstate(invalid="ignore"):
            values[f"pck@{threshold}"] = 100 * (draws @ right) / (draws @ of)
    return values
