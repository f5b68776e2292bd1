r"""COCO 2017's images and keypoint annotations, downloaded, checked and unpacked.

    python -m precompute.fetch.coco --out data/coco                    train and val: 20 GB of archives
    python -m precompute.fetch.coco --out data/coco --splits val       0.8 GB of images
    python -m precompute.fetch.coco --out /data/coco                   a COCO folder that is there already is used as it is

Images and annotations are looked for in every layout that `python -m precompute --data` reads, and only what is lacking
is fetched. An interrupted download goes on where it was; a split's folder appears when all of its images are in it.
Archives are deleted when they are unpacked (--keep-archives keeps them). Images keep their photographers' Flickr
licences, the annotations are CC BY 4.0: https://cocodataset.org/#termsofuse
"""

import argparse
import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from kdcli.flags import Parser
from kdcli.progress import say
from precompute.data.folder import Split, coco_folder, coco_layouts, find_split, first_folder, split_name
from precompute.errors import PrecomputeError
from precompute.fetch.download import MEGABYTE, DownloadError, RemoteFile, bytes_to_come, download
from precompute.fetch.unzip import unpacked_size, unzip

SITE: Final = "http://images.cocodataset.org"

# Sizes as the server states them, repeated by many public download scripts; SHA-1 as GluonCV's documentation
# (docs/build/examples_datasets/mscoco) lists them. The project could not download them itself so far.
FILES: Final = {
    "train": ("zips/train2017.zip", 19_336_861_798, "10ad623668ab00c62c096f0ed636d6aff41faca5"),
    "val": ("zips/val2017.zip", 815_585_330, "4950dc9d00dbe1c933ee0170f5797584351d2a41"),
    "annotations": (
        "annotations/annotations_trainval2017.zip",
        252_907_541,
        "8551ee4bb5860311e79dace7e79cb91e432e78b3",
    ),
}
IMAGES: Final = {"train": 118_287, "val": 5_000}
"""Images a split."""
KEYPOINTS: Final = {"train": 370 * MEGABYTE, "val": 30 * MEGABYTE}
"""Bytes that a split's keypoint file takes unpacked, rounded up; a bound for the disk, not a check."""
SPARE: Final = 500 * MEGABYTE
"""Bytes that must stay free."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What one archive is for: an image folder or the annotations."""

    remote: RemoteFile
    folder: str
    """In the archive, and below the data folder."""
    looked_for: tuple[str, ...]
    """What would have made it needless, relative to the data folder."""
    unpacked: int
    """Bytes that its files take at most."""
    count: int
    """Files that it has."""
    wanted: frozenset[str] | None = None
    """File names to unpack; all where None."""

    def takes(self, name: str) -> bool:
        """Whether a file of the archive is wanted."""
        return self.wanted is None or name in self.wanted


def missing_parts(root: Path, splits: list[str], site: str = SITE) -> list[Part]:
    """The archives of what a data folder lacks, in whichever layout it is.

    Raises:
        PrecomputeError: If an image folder of COCO's is there with too few files: it is not ours, ours appear whole.
    """
    lacking = {split: _lacking(root, split) for split in splits}
    bare = [split for split in splits if lacking[split][0]]
    annotations = [_annotations(bare, site)] if bare else []
    return annotations + [_images(split, site) for split in splits if lacking[split][1]]


def _lacking(root: Path, split: str) -> tuple[bool, bool]:
    """Whether a split's annotations, and whether its images, are to be fetched."""
    try:
        found = find_split(root, split)
    except PrecomputeError:
        own = coco_layouts(split)
        images = first_folder(root, own[0])
        annotated = any((root / layout.annotations).is_file() for layout in own)
    else:
        images, annotated = found.images, True
        if images != root / coco_folder(split):
            return False, False
    if images is not None:
        _refuse_incomplete(images, split)
    return not annotated, images is None


def _refuse_incomplete(images: Path, split: str) -> None:
    found = sum(entry.name.endswith(".jpg") for entry in os.scandir(images))
    if found < IMAGES[split]:
        raise PrecomputeError(
            f"{images} holds {found} of {IMAGES[split]} images and was not made by this command: complete it, or give "
            "another --out"
        )


def _annotations(splits: list[str], site: str) -> Part:
    names = frozenset(Path(coco_layouts(split)[0].annotations).name for split in splits)
    looked_for = tuple(layout.annotations for split in splits for layout in coco_layouts(split))
    unpacked = sum(KEYPOINTS[split] for split in splits)
    return Part(_remote("annotations", site), "annotations", looked_for, unpacked, len(names), names)


def _images(split: str, site: str) -> Part:
    """JPEG files take unpacked what their archive takes."""
    remote = _remote(split, site)
    looked_for = tuple(f"{folder}/" for folder in coco_layouts(split)[0].images)
    return Part(remote, coco_folder(split), looked_for, remote.size or 0, IMAGES[split])


def _remote(key: str, site: str) -> RemoteFile:
    path, size, sha1 = FILES[key]
    return RemoteFile(f"{site}/{path}", size, ("sha1", sha1))


def fetch(root: Path, splits: list[str], site: str = SITE, *, keep_archives: bool = False) -> list[str]:
    """Have the splits in a folder.

    Returns:
        What was done, a line a part, or where each split is if nothing was to be done.

    Raises:
        PrecomputeError: If the disk is too small, a download fails, or an archive is not what it should be.
    """
    splits = list(dict.fromkeys(splits))
    missing = missing_parts(root, splits, site)
    _refuse_small_disk(root, missing, keep_archives)
    done = [_fetch_part(root, part, keep_archives) for part in missing]
    return done or [_there(find_split(root, split), split) for split in splits]


def _there(found: Split, split: str) -> str:
    return f"{split}: {found.images} and {found.annotations} are there already"


def _archive(root: Path, part: Part) -> Path:
    return root / "archives" / part.remote.name


def _fetch_part(root: Path, part: Part, keep_archives: bool) -> str:
    archive = _archive(root, part)
    ours = [folder for folder in archive.parents if folder == archive.parent or not folder.exists()]
    try:
        _download(root, part, archive)
        _refuse_full(root, unpacked_size(archive, part.folder, part.takes))
        files = unzip(archive, part.folder, root / part.folder, part.takes, part.count)
        if not keep_archives:
            archive.unlink()
    finally:
        _remove_empty(ours)
    return f"{root / part.folder}: {len(files)} files"


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders from the innermost on, up to the first that holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _download(root: Path, part: Part, archive: Path) -> None:
    try:
        download(part.remote, archive)
    except DownloadError as error:
        raise DownloadError(
            f"{error}. It is needed because {root} has no {' or '.join(part.looked_for)}; COCO that is on this machine "
            "under other names goes to python -m precompute as it is, with --images DIR --annotations FILE"
        ) from error


def _refuse_small_disk(root: Path, missing: list[Part], keep_archives: bool) -> None:
    """Say what comes, and refuse what does not fit."""
    if not missing:
        return
    download_bytes = [bytes_to_come(part.remote, _archive(root, part)) or 0 for part in missing]
    kept = 0
    peak = 0
    for come, part in zip(download_bytes, missing, strict=True):
        peak = max(peak, kept + come + part.unpacked)
        kept += part.unpacked + (come if keep_archives else 0)
    say(
        f"{root}: {sum(download_bytes) / 1e9:.1f} GB to download, {kept / 1e9:.1f} GB on disk at the end, "
        f"{peak / 1e9:.1f} GB at most on the way"
    )
    _refuse_full(root, peak)


def _refuse_full(root: Path, need: int) -> None:
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < need + SPARE:
        raise PrecomputeError(
            f"{root} has {free / 1e9:.1f} GB free and {(need + SPARE) / 1e9:.1f} GB are needed: make room, or give "
            "another --out"
        )


def main(argv: list[str] | None = None) -> int:
    """Have COCO; 0 when it is there, 1 with one line on stderr when not."""
    parser = Parser(
        prog="python -m precompute.fetch.coco",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("data/coco"), metavar="DIR", help="folder (data/coco)")
    splits = list(IMAGES)
    parser.add_argument(
        "--splits", nargs="+", type=split_name, choices=splits, default=splits, help="train, val (both)"
    )
    parser.add_argument("--keep-archives", action="store_true", help="do not delete archives that are unpacked")
    parser.add_argument("--site", default=SITE, metavar="URL", help=f"a mirror of {SITE}")
    arguments = parser.parse_args(argv)
    try:
        done = fetch(arguments.out, arguments.splits, arguments.site, keep_archives=arguments.keep_archives)
    except (PrecomputeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on", file=sys.stderr)
        return 1
    print("\n".join(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
