"""Skeletons: joints, flip pairs, limbs, OKS sigmas; built in, from TOML files, and from the names of joints."""

from kdlib.skeletons.reading import built_in_names, load_skeleton
from kdlib.skeletons.skeleton import COCO, Skeleton

__all__ = ["COCO", "Skeleton", "built_in_names", "load_skeleton"]
