"""The embedded sample: a seeded generator of people images with COCO-17 annotations, and the script of its teacher.

    python -m precompute.sample --out data/sample

COCO is tens of gigabytes away; this package gives a newcomer and CI a data set in the same format within a minute.
Numbers on it tell about the machinery, not about human pose. The idea of each module, in the order of use: poses
(joint angles) -> figure (bones in space, camera) -> solids (z-buffer) -> wardrobe and body (a dressed person) ->
backdrop and scene (one picture) -> photo (lens and sensor) -> labels (COCO annotations, clean or as imperfect as
COCO's) -> dataset (files) and sheet (a contact sheet to look at). The sample's teacher is made by training_views and
train_teacher.
"""
