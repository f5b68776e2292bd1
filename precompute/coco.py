r"""COCO 2017's images and keypoint annotations, downloaded, checked and unpacked.

    python -m precompute.coco --out data/coco                    train and val: 20 GB of archives
    python -m precompute.coco --out data/coco --splits val       0.8 GB of images
    python -m precompute.coco --out /data/coco                   a COCO folder that is there already is used as it is

An interrupted download goes on where it was; a split's folder appears when all of its images are in it. Archives are
deleted when they are unpacked (--keep-archives keeps them). Images keep their photographers' Flickr licences, the
annotations are CC BY 4.0: https://cocodataset.org/#termsofuse
"""

import argparse
import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from console.flags import Parser
from precompute.data_folder import find_split
from precompute.download import MEGABYTE, DownloadError, RemoteFile, bytes_to_come, download
from precompute.errors import PrecomputeError
from precompute.unzip import unpacked_size, unzip

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
KEYPOINTS: Final = 400 * MEGABYTE
"""Bytes that both keypoint files take unpacked, rounded up; a bound for the disk, not a check."""
SPARE: Final = 500 * MEGABYTE
"""Bytes that must stay free."""


@dataclasses.dataclass(frozen=True)
class Part:
    """What one archive is for: an image folder or the annotations."""

    remote: RemoteFile
    folder: str
    splits: tuple[str, ...]
    wanted: frozenset[str] | None = None
    """File names to unpack; all where None."""
    count: int | None = None
    """Files that the folder must have."""

    def is_there(self, root: Path) -> bool:
        """Whether it is unpacked.

        Raises:
            PrecomputeError: If the folder is there with too few files: it is not ours, ours appear whole.
        """
        folder = root / self.folder
        if self.wanted is not None:
            return all((folder / name).is_file() for name in self.wanted)
        if not folder.is_dir():
            return False
        found = sum(entry.name.endswith(".jpg") for entry in os.scandir(folder))
        if self.count is not None and found < self.count:
            raise PrecomputeError(
                f"{folder} holds {found} of {self.count} images and was not made by this command: complete it, or give "
                "another --out"
            )
        return True

    def lies_elsewhere(self, root: Path) -> bool:
        """Whether a data folder of another layout (``images/val2017``, FiftyOne's zoo) has what this is for."""
        if not self.splits:
            return False
        try:
            found = [find_split(root, split) for split in self.splits]
        except PrecomputeError:
            return False
        return all(split.images.parent != root for split in found)

    def takes(self, name: str) -> bool:
        """Whether a file of the archive is wanted."""
        return self.wanted is None or name in self.wanted


def parts(splits: list[str], site: str = SITE) -> list[Part]:
    """The archives that the splits need."""
    names = frozenset(f"person_keypoints_{split}2017.json" for split in splits)
    annotations = Part(_remote("annotations", site), "annotations", tuple(splits), names, len(names))
    return [annotations, *(Part(_remote(s, site), f"{s}2017", (s,), count=IMAGES[s]) for s in splits)]


def _remote(key: str, site: str) -> RemoteFile:
    path, size, sha1 = FILES[key]
    return RemoteFile(f"{site}/{path}", size, ("sha1", sha1))


def fetch(root: Path, wanted: list[Part], *, keep_archives: bool = False) -> list[str]:
    """Have the parts in a folder.

    Returns:
        What was done, a line a part.

    Raises:
        PrecomputeError: If the disk is too small, a download fails, or an archive is not what it should be.
    """
    here = [part for part in wanted if not part.lies_elsewhere(root)]
    missing = [part for part in here if not part.is_there(root)]
    _refuse_small_disk(root, missing, keep_archives)
    done = [f"{', '.join(part.splits)}: {part.remote.name} is there already" for part in wanted if part not in missing]
    return done + [_fetch_part(root, part, keep_archives) for part in missing]


def _archive(root: Path, part: Part) -> Path:
    return root / "archives" / part.remote.name


def _fetch_part(root: Path, part: Part, keep_archives: bool) -> str:
    archive = download(part.remote, _archive(root, part))
    _refuse_full(root, unpacked_size(archive, part.folder, part.takes))
    files = unzip(archive, part.folder, root / part.folder, part.takes, part.count)
    if not keep_archives:
        archive.unlink()
        if not any(archive.parent.iterdir()):
            archive.parent.rmdir()
    return f"{root / part.folder}: {len(files)} files"


def _refuse_small_disk(root: Path, missing: list[Part], keep_archives: bool) -> None:
    """Say what comes, and refuse what does not fit: JPEG files take unpacked what their archive takes."""
    if not missing:
        return
    download_bytes = [bytes_to_come(part.remote, _archive(root, part)) or 0 for part in missing]
    unpacked = [(part.remote.size or 0) if part.wanted is None else KEYPOINTS for part in missing]
    kept = 0
    peak = 0
    for come, files in zip(download_bytes, unpacked, strict=True):
        peak = max(peak, kept + come + files)
        kept += files + (come if keep_archives else 0)
    _say(
        f"{root}: {sum(download_bytes) / 1e9:.1f} GB to download, {kept / 1e9:.1f} GB on disk at the end, "
        f"{peak / 1e9:.1f} GB at most on the way"
    )
    _refuse_full(root, peak)


def _refuse_full(root: Path, need: int) -> None:
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < need + SPARE:
        raise PrecomputeError(
            f"{root} has {free / 1e9:.1f} GB free and {(need + SPARE) / 1e9:.1f} GB are needed: give another --out, or "
            "--splits val"
        )


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main(argv: list[str] | None = None) -> int:
    """Have COCO; 0 when it is there, 1 with one line on stderr when not."""
    parser = Parser(
        prog="python -m precompute.coco", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/coco"), metavar="DIR", help="folder (data/coco)")
    parser.add_argument("--splits", nargs="+", choices=list(IMAGES), default=list(IMAGES), help="train, val (both)")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete archives that are unpacked")
    parser.add_argument("--site", default=SITE, metavar="URL", help=f"a mirror of {SITE}")
    arguments = parser.parse_args(argv)
    try:
        done = fetch(arguments.out, parts(arguments.splits, arguments.site), keep_archives=arguments.keep_archives)
    except DownloadError as error:
        print(f"error: {error}; if COCO is on this machine already, name its folder: --out DIR", file=sys.stderr)
        return 1
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
