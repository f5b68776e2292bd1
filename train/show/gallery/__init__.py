"""A gallery: a store's persons and what networks say of them, as COCO files that any COCO tool reads.

It is a folder with ``ground_truth.json`` (annotations) and one ``NAME.json`` a network (keypoint results). Each result
also has its ``annotation_id``, ``bbox``, ``oks`` and ``pck`` (the share of its labelled joints within PCK@0.05), null
where nothing is labelled. ``python -m train.show.gallery`` shows a gallery in FiftyOne's App, over the original images;
nothing that it imports needs torch.
"""

GROUND_TRUTH = "ground_truth"
"""Name of the annotations' file and field."""
