"""Where a store is: a path, or a URL whose credentials are never shown.

`str()` of a location, and all messages, have `***` in place of user name, password and query (which may hold a
signature). Only requests use the whole URL.
"""

import re
from pathlib import Path, PurePath
from urllib.parse import unquote, urlsplit

from cache.errors import StoreError
from kdcli import system

SCHEMES = ("http", "https", "s3", "hf")
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://+(?=[^/])", re.IGNORECASE)
_COLLAPSED = re.compile(rf"({'|'.join(SCHEMES)}):/+(?=[^/])", re.IGNORECASE)
_COLLAPSED_FILE = re.compile(r"file:/(?=[^/])", re.IGNORECASE)
_COLLAPSED_OTHER = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class Location:
    """The URL of a store, or of a file of a store."""

    def __init__(self, url: str) -> None:
        base, mark, query = url.partition("#")[0].partition("?")
        self._base, self._query = base.rstrip("/"), mark + query

    @property
    def scheme(self) -> str:
        """`http`, `https`, `s3` or `hf`."""
        return self._base.partition(":")[0].lower()

    @property
    def name(self) -> str:
        """The last part of the path, decoded."""
        return unquote(self._base.rpartition("/")[2])

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on, e.g. `.zarr`."""
        return PurePath(self.name).suffix

    @property
    def secret_url(self) -> str:
        """The whole URL, including credentials: for requests, never for messages."""
        return self._base + self._query

    def __truediv__(self, key: str) -> "Location":
        """The location of a file below this one; it keeps the query, which may be a signature for the whole folder."""
        return Location(f"{self._base}/{key}{self._query}") if key else self

    def with_name(self, name: str) -> "Location":
        """The file `name` in the same folder."""
        return Location(f"{self._base.rpartition('/')[0]}/{name}{self._query}")

    def __str__(self) -> str:
        return redact(self.secret_url)

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self.secret_url == other.secret_url

    def __hash__(self) -> int:
        return hash(self.secret_url)


Place = Path | Location


def redact(text: object) -> str:
    """Replace the credentials of every URL in `text` by `***`."""
    hidden = re.sub(r"(?<=://)[^/?#\s'\"]*@", "***@", str(text))
    return re.sub(r"(?<=[a-z0-9]://)([^\s?'\"<>]*)\?[^\s'\"<>)]+", r"\1?***", hidden)


def locate(place: "str | Path | Location") -> Place:
    """The path or location that an argument names; a `file://` URL is a path. `StoreError` for other URLs."""
    if isinstance(place, Location):
        return place
    text = place.as_posix() if isinstance(place, PurePath) else place
    if isinstance(place, PurePath):  # `Path` removed a slash of a URL
        text = _COLLAPSED.sub(r"\1://", text) if _COLLAPSED.match(text) else text
        text = "file:///" + text[6:] if _COLLAPSED_FILE.match(text) else text
    if text.lower().startswith("file:///"):
        return system.long_path(Path(system.path_of_url(unquote(urlsplit(text).path))))
    url = _URL.match(text)
    if url is None:
        return system.long_path(Path(place))
    if url[1].lower() not in SCHEMES:
        raise StoreError(f"{redact(text)}: a store is a path, or a URL that begins with {', '.join(SCHEMES)} or file")
    return Location(text)


def local_target(place: str | Path, command: str = "") -> Path:
    """The path on this machine that an argument names, for a store to write; a ``file://`` URL is a path.

    Args:
        place: The argument.
        command: The command up to this argument, for the message; "" if it is not known.

    Raises:
        StoreError: It is another URL. The message has the commands that get the store there.
    """
    text = place.as_posix() if isinstance(place, PurePath) else place
    if isinstance(place, PurePath) and _COLLAPSED_OTHER.match(text) and not Path(text.partition("/")[0]).exists():
        text = text.replace(":/", "://", 1)
    if text.lower().startswith("file:/"):
        found = locate(place)
    else:
        url = _URL.match(text)
        found = Location(text) if url else system.long_path(Path(place))
    if isinstance(found, Path):
        return found
    name = found.name if found.suffix in (".zarr", ".h5", ".hdf5", ".zip") else "NAME.zarr"
    if found.scheme in ("s3", "hf"):
        copied = f"then `python -m cache push {name} {found}`"
    elif found.scheme in ("http", "https"):
        copied = f"then copy {name} into the server's folder"
    else:
        copied = f"then copy {name} with a program for {found.scheme}://, e.g. rclone"
    first = f"`{command} {name}`" if command else f"give {name}"
    raise StoreError(f"{found}: a store is written to a path on this machine: {first}, {copied}")
