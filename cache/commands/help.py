"""What `python -m cache COMMAND --help` teaches before it lists the flags."""

from typing import Final

INFO: Final = """\
What is in a store: teacher, data, sizes, the codec's error, the teacher's accuracy, and where all of it came from.

    python -m cache info train.zarr
    python -m cache info train.zarr.partial     # of an unfinished one: how far it has come
    python -m cache info https://host/coco/train.zarr           # fetches no more than it has to
    python -m cache info train.zarr --json      # all of it, for a program

The line `content` has the sha256 of all content: the same number in two sound stores, the same content in any form.
"""

VERIFY: Final = """\
Read everything, and check every record, the mask, the hashes and the manifest; exit code 1 and the bad records.

    python -m cache verify train.zarr
    python -m cache verify train.zarr --json    # every bad record, where a person gets a screenful
    python -m cache verify train.zarr --repair  # stage the sound shards; precompute --resume makes the others

The store stays at its place, damaged as it is, until the run that made it has replaced it: docs/precompute.md.
"""

DIFF: Final = """\
Do two stores hold the same? Exit code 0 if so; 1 and which instances, maps and fields differ if not.

    python -m cache diff train.zarr train.h5    # the form does not count, the content does
    python -m cache diff train.zarr https://host/coco/train.zarr
    python -m cache diff exact.zarr coded.zarr --within-codec-error     # or as near as both codecs allow?
"""

CONVERT: Final = """\
Write a store in the form that the suffix of DST names, in another codec, or both.

    python -m cache convert train.zarr train.h5                 # no loss: the same content hash
    python -m cache convert exact.zarr small.zarr --codec root4:64      # fewer bytes; the error is measured and stated
    python -m cache convert train.zarr train.h5 --resume        # go on with an interrupted conversion

An .h5 is one file; a .zarr directory is what object stores and streaming are quick with.
"""

PUSH: Final = """\
Copy a store to where others find it: it appears there whole or not at all. Interrupted, the same command goes on.

    python -m cache push train.zarr /mnt/nas/coco/              # a mounted disk
    python -m cache push train.zarr s3://team/coco/             # S3 and all that speak it
    python -m cache push train.zarr hf://datasets/team/coco-teacher/    # the Hugging Face Hub, one commit
    python -m cache push train.zarr s3://team/coco/v2.zarr      # under another name

Beside it lies STORE.files.json, the sizes and SHA-256 of its files. docs/sharing.md has the rest: credentials, and what
may be published.
"""

PULL: Final = """\
Copy a store from a folder or URL: checked, whole or not at all. Interrupted, the same command goes on.

    python -m cache pull s3://team/coco/train.zarr train.zarr
    python -m cache pull https://host/coco stores --split val   # finds val.zarr, val.h5 or val.zip
    python -m cache pull https://host/coco/train.zarr part.zarr --limit 5000    # the first 5000, a store of their own

A store need not be pulled to be used: wherever one is read, its URL will do. docs/sharing.md compares the two.
"""

PACK: Final = """\
Write a store of the Zarr form as one .zip file, for a stick, a mail, an archive. It opens as it is.

    python -m cache pack val.zarr val.zip
    python -m cache pack s3://team/coco/val.zarr val.zip        # from where it is, without a copy in between

An .h5 is one file already.
"""

UNPACK: Final = """\
Write an archive of `pack` as a .zarr directory again, byte for byte what was packed.

    python -m cache unpack val.zip val.zarr
    python -m cache unpack val.zip stores       # a folder: the store gets the archive's name
"""
