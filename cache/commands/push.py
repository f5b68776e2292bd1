"""Copy a store to a folder or server where others can read it. The copy can be opened when it is complete.

    python -m cache push train.zarr /mnt/nas/coco/              # a mounted disk
    python -m cache push train.zarr s3://team/coco/             # S3 and compatible services
    python -m cache push train.zarr hf://datasets/team/coco-teacher/    # the Hugging Face Hub, as one commit
    python -m cache push train.zarr s3://team/coco/v2.zarr      # under another name

After an interruption, run the same command again: it continues. STORE.files.json, with the sizes and SHA-256 of all
files, is written beside the store. On the Hugging Face Hub, the same commit writes a dataset card, README.md, that
describes all stores of the repository; your own text in it is kept. docs/sharing.md explains credentials, and what may
be published.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cache.commands.arguments import add_overwrite
from cache.commands.pull import Parts, parts_of, place_in, pull_store
from cache.errors import StoreError
from cache.files.client import Remote
from cache.files.durable import write_atomically
from cache.files.listing import MAX_LIST, SUFFIX, FileList, list_files, parse_file_list
from cache.files.location import Location, Place, locate
from cache.reading.opening import ROOT, open_store
from cache.reading.store import Store
from cache.sharing.card import CardEntry, card_entry, merge_card
from cache.sharing.finding import FoundStore, find_stores
from kdcli.progress import Advance, no_advance, say, show_count

CARD = "README.md"  # at the root of a repository
_MAX_CARD = 1 << 22  # bytes
_FILES_AT_ONCE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("src", metavar="STORE", help="a local store: a .zarr directory, an .h5 or a .zip file")
    parser.add_argument(
        "dst",
        metavar="URL",
        help="a folder, or an s3:// or hf://datasets/ URL; if it ends in .zarr, .h5 or .zip, it names the store itself",
    )
    add_overwrite(parser, "what is at URL")
    parser.add_argument("--no-card", action="store_true", help="do not write the dataset card (hf:// only)")


def run(options: argparse.Namespace) -> int:
    """Push the store and print where it is; returns 0."""
    with show_count("push", "MB") as advance:
        place = push_store(
            options.src, options.dst, overwrite=options.overwrite, card=not options.no_card, advance=advance
        )
    print(place)
    return 0


def push_store(
    source: str | Path,
    target: str | Path | Location,
    *,
    overwrite: bool = False,
    card: bool = True,
    advance: Advance = no_advance,
) -> Place:
    """Copy the store at the path `source` to `target`: a path, or an `s3://` or `hf://` URL; returns where it is.

    If `target` is a folder, the store gets the source's name in it. On S3, the list of files is uploaded first, and the
    file that makes it a store last, so the same call continues after an interruption. A copy to a path is renamed when
    it is complete; the Hugging Face Hub gets one commit, with the dataset card of the repository if `card` is true.
    `advance` is called with the number of bytes that were read.

    Raises:
        StoreError: Another store, finished or not, is there and `overwrite` is false, or the URL cannot be written to.
    """
    store = open_store(source)
    if isinstance(store.path, Location):
        raise StoreError(f"{store.path}: push copies a local store; pull this one first")
    place = place_in(locate(target), store.path.name)
    parts = parts_of(store, place.name)
    if isinstance(place, Location) and place.scheme not in ("s3", "hf"):
        raise StoreError(f"{place}: cannot push over {place.scheme}; copy the store into the server's folder")
    listed = list_files(parts.files, parts.keys, store.manifest["content_sha256"], advance)
    parts = parts._replace(listed=listed)
    if isinstance(place, Path):
        pull_store(store.path, place, overwrite=overwrite)
        write_atomically(place.with_name(place.name + SUFFIX), [listed.to_bytes()])
    elif place.scheme == "hf":
        _commit(place, parts, store if card else None, overwrite)
    else:
        _upload(place, parts, overwrite)
    if open_store(place, local_bytes=0).manifest["content_sha256"] != listed.content_sha256:
        raise StoreError(f"{place}: not the store that was pushed; is another program writing there?")
    return place


def _upload(place: Location, parts: Parts, overwrite: bool) -> None:
    """Upload file by file, the file that makes it a store last."""
    remote, list_file = Remote(place), Remote(place.with_name(place.name + SUFFIX))
    root = ROOT if ROOT in parts.keys else ""
    remote_list = parse_file_list(list_file.read_whole("", MAX_LIST))
    if remote_list != parts.listed:
        _remove_old_store(remote, remote_list, root, overwrite)
        list_file.put("", _listed(parts).to_bytes())
    files, remote_files = _listed(parts).files, remote.listing()

    def upload(key: str) -> None:
        if remote_files.get(key) != files[key].size:
            remote.put(key, _path(parts, key))

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(upload, (key for key in parts.keys if key != root)))
    upload(root)


def _remove_old_store(remote: Remote, remote_list: FileList | None, root: str, overwrite: bool) -> None:
    """Remove the files of another store, the one that makes it a store first; `StoreError` without `overwrite`."""
    remote_files = remote.listing()
    present = root in remote_files
    if not (present or remote_list):
        return
    if not overwrite:
        state = "another store" if present else "an unfinished push of another store"
        raise StoreError(f"{remote.root}: {state} is there; replace it with --overwrite")
    old = remote_list.files if remote_list else open_store(remote.root, local_bytes=0).file_keys()
    obsolete = remote_files.keys() & set(old)
    if present:
        remote.delete(root)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        list(pool.map(remote.delete, obsolete - {root}))


def _commit(place: Location, parts: Parts, described: Store | None, overwrite: bool) -> None:
    """Make one commit to a repository of the Hugging Face Hub; files that were uploaded before are not sent again.

    Args:
        place: Where the store is to be.
        parts: Its files.
        described: The local store, to be described in the repository's card; None to leave the card as it is.
        overwrite: Replace another store.
    """
    remote, list_file = Remote(place), Remote(place.with_name(place.name + SUFFIX))
    folder = remote.resolve()
    if not hasattr(folder, "path_in_repo"):
        raise StoreError(f"{place}: push writes to repositories of the Hub, hf://datasets/..., not to its buckets")
    if not folder.path_in_repo:
        raise StoreError(f"{place}: a whole repository; give the store a name in it, e.g. {place}/{place.name}")
    remote_list = parse_file_list(list_file.read_whole("", MAX_LIST))
    is_there = remote_list == parts.listed
    if not is_there and (remote_list or remote.stat(ROOT if ROOT in parts.keys else "")) and not overwrite:
        raise StoreError(f"{place}: another store is there; replace it with --overwrite")
    operations = [] if is_there else _store_operations(parts, remote_list, folder.path_in_repo)
    if described is not None and folder.repo_type == "dataset":
        operations += _card_operations(described, folder)
    if operations:
        remote.commit(folder, operations, f"Card of {place.name}" if is_there else f"Store {place.name}")


def _store_operations(parts: Parts, remote_list: FileList | None, path_in_repo: str) -> list[Any]:
    """The parts of a commit that write the store and its list, and delete what another store left behind."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    def path_of(key: str) -> str:
        return f"{path_in_repo}/{key}" if key else path_in_repo

    operations: list[Any] = [CommitOperationAdd(path_of(key), str(_path(parts, key))) for key in parts.keys]
    operations.append(CommitOperationAdd(path_in_repo + SUFFIX, _listed(parts).to_bytes()))
    obsolete = set(remote_list.files if remote_list else ()) - set(parts.keys)
    return operations + [CommitOperationDelete(path_of(key)) for key in sorted(obsolete)]


def _card_operations(store: Store, folder: Any) -> list[Any]:
    """The part of a commit that writes the repository's card, in a list; the list is empty if the card is current."""
    from huggingface_hub import CommitOperationAdd

    revision = "" if folder.revision in (None, "main") else f"@{quote(folder.revision, safe='')}"
    repository = Location(f"hf://datasets/{folder.repo_id}{revision}")
    data = Remote(repository).read_whole(CARD, _MAX_CARD)
    try:
        existing = None if data is None else data.decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"{repository / CARD}: not UTF-8; correct it, or give --no-card") from error
    entries = [card_entry(folder.path_in_repo, store), *_other_entries(repository, folder.path_in_repo)]
    card = merge_card(existing, str(repository), sorted(entries, key=lambda entry: entry.name))
    return [] if card == existing else [CommitOperationAdd(CARD, card.encode())]


def _other_entries(repository: Location, pushed: str) -> list[CardEntry]:
    """Describe the repository's other stores; those that cannot be read are left out, and named on stderr."""

    def describe(found: FoundStore) -> CardEntry | None:
        try:
            return card_entry(found.name, open_store(found.place, local_bytes=0), found.nbytes)
        except StoreError as error:
            say(f"not on the card: {error}")
            return None

    others = [found for found in find_stores(repository) if found.complete and found.name != pushed]
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return [entry for entry in pool.map(describe, others) if entry]


def _listed(parts: Parts) -> FileList:
    assert parts.listed is not None  # noqa: S101 - `push_store` sets it
    return parts.listed


def _path(parts: Parts, key: str) -> Path:
    path = parts.files.path(key)
    assert isinstance(path, Path)  # noqa: S101 - `push_store` refuses URLs
    return path
