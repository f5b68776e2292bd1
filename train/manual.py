"""What `python -m train COMMAND --help` teaches before it lists the flags; export and predict bring their own."""

from typing import Final

DISTILL: Final = """\
Train a student on what a store's teacher said; the teacher itself is not needed.

    python -m train distill --store train.zarr --val-store val.zarr --out runs/distilled
    python -m train distill --config configs/coco.toml --out runs/coco     # flags from a file; those typed win
    python -m train distill ... --temperature 2 --gt-weight 0.5     # a softer teacher, and the labels beside it
    python -m train distill ... --resume                            # go on with an interrupted run
    torchrun --nproc-per-node 2 -m train distill ...                # several processes, the same student

The run folder gets best.pt (of the epoch with the highest AP on --val-store), last.pt to go on from, config.json,
history.jsonl, metrics.json, and TensorBoard's view. docs/choosing.md says which knobs matter.
"""

BASELINE: Final = """\
Train the same student on the labels alone: what distillation has to beat.

    python -m train baseline --store train.zarr --val-store val.zarr --out runs/baseline
    python -m train baseline --config configs/coco.toml --out runs/baseline     # the recipe of the distilled run
    python -m train baseline ... --resume                           # go on with an interrupted run

Give it the flags of the distilled run, --seed too: then the teacher is all that differs.
"""

EVALUATE: Final = """\
AP, AR and PCK of a student, or of the teacher that a store remembers, on the persons of a store.

    python -m train evaluate --store val.zarr --teacher             # is it any good? look before you train
    python -m train evaluate --store val.zarr --student runs/distilled/best.pt
    python -m train evaluate --store val.zarr --student student.onnx --out metrics.json
    python -m train evaluate ... --decoder argmax                   # a quarter pixel from the peak, as HRNet does

The teacher is decoded from the store's heatmaps, as HRNet's own evaluation does it: that takes seconds and no network.
"""

REPORT: Final = """\
One HTML file that shows teacher and students side by side: numbers, curves, confidence, persons.

    python -m train report --store val.zarr --runs runs/baseline runs/distilled --out report.html
    python -m train report --store val.zarr --runs runs/seed0 runs/seed1 runs/seed2 --out seeds.html

Everything on it is measured anew from the store and each run's best.pt. It opens in any browser and asks nothing of a
network. docs/looking.md says what each part answers.
"""

FIFTYONE: Final = r"""Labels, teacher and students on the original images, in FiftyOne's App; or: make fiftyone.

    python -m train fiftyone --store val.zarr --images data/coco/val2017 --teacher \
           --student runs/baseline/best.pt runs/distilled/best.pt --python .venv-fiftyone/bin/python
    python -m train fiftyone ... --no-app                           # make the dataset and stop
    python -m train.gallery --gallery runs/fiftyone --images data/coco/val2017     # show it again, without a store

--out holds the same as plain COCO files. docs/looking.md says how to find the persons that matter.
"""
