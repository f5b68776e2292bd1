"""Metrics of predicted keypoints (COCO's AP and AR, OKS, PCK) and of features (CKA), with numpy."""

from kdlib.metrics.cka import linear_cka
from kdlib.metrics.coco import instance_scores, keypoint_ap, keypoint_matches
from kdlib.metrics.evaluation import decode_to_image, evaluate_points
from kdlib.metrics.keypoints import normalised_distances, oks, pck

__all__ = [
    "decode_to_image",
    "evaluate_points",
    "instance_scores",
    "keypoint_ap",
    "keypoint_matches",
    "linear_cka",
    "normalised_distances",
    "oks",
    "pck",
]
