r"""Download, verify and unpack the images and keypoint annotations of COCO 2017.

    python -m precompute.fetch.coco --out data/coco                    train and val: 20 GB of archives
    python -m precompute.fetch.coco --out data/coco --splits val       0.8 GB of images
    python -m precompute.fetch.coco --out /data/coco                   completes a COCO folder that exists already

The command looks for images and annotations in every layout that `python -m precompute --data` reads, and downloads
only what is missing. An interrupted download continues where it stopped. A split's image folder appears when it is
complete. Archives are deleted after unpacking, unless --keep-archives is given. Images keep their photographers' Flickr
licences, the annotations are CC BY 4.0: https://cocodataset.org/#termsofuse
"""

import argparse
import dataclasses
import os
import shutil
from pathlib import Path
from typing import Final

from kdcli.flags import Parser, exit_with, local_path, run_command
from kdcli.progress import say
from precompute.data.folder import (
    Split,
    coco_folder,
    coco_layouts,
    find_annotations,
    find_image_folder,
    find_split,
    to_coco_split,
)
from precompute.errors import PrecomputeError
from precompute.fetch.download import MEGABYTE, DownloadError, RemoteFile, download, remaining_bytes
from precompute.fetch.unzip import unpacked_size, unzip

SITE: Final = "http://images.cocodataset.org"

# Sizes are those that the server states; many public download scripts list the same. SHA-1 digests are from GluonCV's
# documentation (docs/build/examples_datasets/mscoco). This project has not been able to download the files so far.
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
"""Images per split."""
KEYPOINTS: Final = {"train": 370 * MEGABYTE, "val": 30 * MEGABYTE}
"""Upper bound of the bytes of a split's unpacked keypoint file, to estimate disk space."""
SPARE: Final = 500 * MEGABYTE
"""Bytes of disk space that must stay free."""


@dataclasses.dataclass(frozen=True)
class Part:
    """One archive: the images of a split, or the annotations."""

    remote: RemoteFile
    folder: str
    """Folder in the archive, and in the data folder."""
    alternatives: tuple[str, ...]
    """Files or folders of the data folder that make the archive unnecessary if one exists."""
    unpacked: int
    """Upper bound of the bytes of its unpacked files."""
    count: int
    """Number of files to unpack."""
    wanted: frozenset[str] | None = None
    """Names of the files to unpack; None for all."""

    def includes(self, name: str) -> bool:
        """Whether a file of the archive is to be unpacked."""
        return self.wanted is None or name in self.wanted


def missing_parts(root: Path, splits: list[str], site: str = SITE) -> list[Part]:
    """Find the archives that must be downloaded to complete a data folder of any known layout.

    Raises:
        PrecomputeError: If COCO's image folder exists but has too few files. The command does not change such a folder.
    """
    missing = {split: _is_missing(root, split) for split in splits}
    unannotated = [split for split in splits if missing[split][0]]
    annotations = [_annotations(unannotated, site)] if unannotated else []
    return annotations + [_images(split, site) for split in splits if missing[split][1]]


def _is_missing(root: Path, split: str) -> tuple[bool, bool]:
    """Whether a split's annotations, and whether its images, are missing."""
    try:
        found = find_split(root, split)
    except PrecomputeError:
        own = coco_layouts(split)
        images = find_image_folder(root, own[0])
        annotated = any(find_annotations(root, layout) for layout in own)
    else:
        images, annotated = found.images, True
        if images != root / coco_folder(split):
            return False, False
    if images is not None:
        _check_complete(images, split)
    return not annotated, images is None


def _check_complete(images: Path, split: str) -> None:
    found = sum(entry.name.endswith(".jpg") for entry in os.scandir(images))
    if found < IMAGES[split]:
        raise PrecomputeError(
            f"{images} has {found} of {IMAGES[split]} images and was not made by this command: complete it, or give "
            "another --out"
        )


def _annotations(splits: list[str], site: str) -> Part:
    names = frozenset(Path(coco_layouts(split)[0].annotations).name for split in splits)
    alternatives = tuple(layout.annotations for split in splits for layout in coco_layouts(split))
    unpacked = sum(KEYPOINTS[split] for split in splits)
    return Part(_remote("annotations", site), "annotations", alternatives, unpacked, len(names), names)


def _images(split: str, site: str) -> Part:
    remote = _remote(split, site)
    alternatives = tuple(f"{folder}/" for folder in coco_layouts(split)[0].images)
    return Part(remote, coco_folder(split), alternatives, remote.size or 0, IMAGES[split])  # JPEG does not shrink


def _remote(key: str, site: str) -> RemoteFile:
    path, size, sha1 = FILES[key]
    return RemoteFile(f"{site}/{path}", size, ("sha1", sha1))


def fetch(root: Path, splits: list[str], site: str = SITE, *, keep_archives: bool = False) -> list[str]:
    """Download and unpack the parts of the splits that a data folder lacks.

    Args:
        root: The data folder.
        splits: ``train``, ``val``, or both.
        site: Base address of the archives.
        keep_archives: Do not delete archives after unpacking.

    Returns:
        One line per unpacked archive, or one line per split if nothing was missing.

    Raises:
        PrecomputeError: If the disk has too little free space, a download fails, or an archive is not the expected one.
    """
    splits = list(dict.fromkeys(splits))
    missing = missing_parts(root, splits, site)
    _check_disk(root, missing, keep_archives)
    done = [_fetch_part(root, part, keep_archives) for part in missing]
    return done or [_describe_existing(find_split(root, split), split) for split in splits]


def _describe_existing(found: Split, split: str) -> str:
    return f"{split}: {found.images} and {found.annotations} exist already"


def _archive(root: Path, part: Part) -> Path:
    return root / "archives" / part.remote.name


def _fetch_part(root: Path, part: Part, keep_archives: bool) -> str:
    archive = _archive(root, part)
    created = [folder for folder in archive.parents if folder == archive.parent or not folder.exists()]
    try:
        _download(root, part, archive)
        _check_free_space(root, unpacked_size(archive, part.folder, part.includes))
        files = unzip(archive, part.folder, root / part.folder, part.includes, part.count)
        if not keep_archives:
            archive.unlink()
    finally:
        _remove_empty(created)
    return f"{root / part.folder}: {len(files)} files"


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, until one is not empty."""
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
            f"{error}. It is needed because {root} has no {' or '.join(part.alternatives)}. If COCO is on this machine "
            "under other names, give it to python -m precompute with --images DIR --annotations FILE"
        ) from error


def _check_disk(root: Path, missing: list[Part], keep_archives: bool) -> None:
    """Print the sizes of the downloads; raise PrecomputeError if the disk has too little free space."""
    if not missing:
        return
    download_bytes = [remaining_bytes(part.remote, _archive(root, part)) or 0 for part in missing]
    kept = 0
    peak = 0
    for archive_bytes, part in zip(download_bytes, missing, strict=True):
        peak = max(peak, kept + archive_bytes + part.unpacked)
        kept += part.unpacked + (archive_bytes if keep_archives else 0)
    say(
        f"{root}: {sum(download_bytes) / 1e9:.1f} GB to download, {kept / 1e9:.1f} GB on disk at the end, "
        f"{peak / 1e9:.1f} GB at peak"
    )
    _check_free_space(root, peak)


def _check_free_space(root: Path, needed: int) -> None:
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE:
        raise PrecomputeError(
            f"{root} has {free / 1e9:.1f} GB free and {(needed + SPARE) / 1e9:.1f} GB are needed: free some space, or "
            "give another --out"
        )


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns 0 when COCO is complete, or 1 after an error, with one line on stderr."""
    parser = Parser(
        prog="python -m precompute.fetch.coco",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=local_path, default=Path("data/coco"), metavar="DIR", help="data folder (default: data/coco)"
    )
    splits = list(IMAGES)
    parser.add_argument(
        "--splits", nargs="+", type=to_coco_split, choices=splits, default=splits, help="train, val (default: both)"
    )
    parser.add_argument("--keep-archives", action="store_true", help="do not delete archives after unpacking")
    parser.add_argument(
        "--site", default=SITE, metavar="URL", help=f"base address of the archives, for a mirror (default: {SITE})"
    )
    arguments = parser.parse_args(argv)
    interrupted = "interrupted; run the same command again to continue"
    return run_command(lambda: _run(arguments), (PrecomputeError, OSError), interrupted)


def _run(arguments: argparse.Namespace) -> None:
    done = fetch(arguments.out, arguments.splits, arguments.site, keep_archives=arguments.keep_archives)
    print("\n".join(done))


if __name__ == "__main__":
    exit_with(main)
