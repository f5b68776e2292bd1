"""Metrics of predicted keypoints (COCO's AP and AR, OKS, PCK, PCKh, AUC, EPE) and of features (CKA), with numpy."""

from kdlib.metrics.cka import linear_cka
from kdlib.metrics.coco import instance_scores, keypoint_ap, keypoint_matches, part_ap
from kdlib.metrics.evaluation import decode_to_image, evaluate_points
from kdlib.metrics.keypoints import auc, epe, head_sizes, head_sizes_of_boxes, normalised_distances, oks, pck, pckh

__all__ = [
    "auc",
    "decode_to_image",
    "epe",
    "evaluate_points",
    "head_sizes",
    "head_sizes_of_boxes",
    "instance_scores",
    "keypoint_ap",
    "keypoint_matches",
    "linear_cka",
    "normalised_distances",
    "oks",
    "part_ap",
    "pck",
    "pckh",
]
