"""A gallery: the persons of a store and the predictions of networks, as COCO files to show in FiftyOne's App.

A gallery is a folder with ``ground_truth.json`` (annotations) and one ``NAME.json`` per network (keypoint results).
Each result also has ``annotation_id``, ``bbox``, ``oks`` and ``pck`` (the share of its labelled joints within
PCK@0.05); the last two are null for a person without labels. ``python -m train.show.gallery`` shows a gallery over the
original images, in FiftyOne's App; the modules that it imports do not need torch.
"""

GROUND_TRUTH = "ground_truth"
"""Name of the annotations' file and field."""
