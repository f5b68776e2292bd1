"""The embedded sample: a seeded generator of images of drawn people with COCO-17 annotations, and its teacher's script.

    python -m precompute.sample --out data/sample

COCO takes tens of gigabytes to download. This package gives new users and CI a data set in the same format within a
minute. Results on it test the software; they say nothing about human pose. The modules in order of use: poses (joint
angles) -> figure (bones in space, camera) -> solids (z-buffer) -> appearance and body (a dressed person) -> backdrop
and scene (one drawn image) -> photo (lens and sensor) -> labels (COCO annotations, clean or as noisy as COCO's) ->
dataset (files) and sheet (a contact sheet to look at). training_views and train_teacher train the sample's teacher.
"""
