"""The server of the page. It serves the page's files, three files of onnxruntime-web, one student, and chosen images.

Every address is looked up in a table, so no address can lead to another file. All responses carry the headers that
browsers require for WebAssembly with several threads (COOP, COEP), and a content security policy that forbids the page
to load anything from another server.
"""

import ipaddress
import json
import os
import shutil
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from kdlib.inputs.folders import ImageFile
from kdlib.students.loading import OnnxStudent
from train.deploy.web.facts import describe
from train.deploy.web.runtime import FILES
from train.errors import TrainError

PAGE: Final = Path(__file__).resolve().parent / "page"
LOCALHOST: Final = "localhost"
EVERY_ADDRESS: Final = "0.0.0.0"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".avif": "image/avif",
}
"""Content types by suffix; all other files are application/octet-stream."""
HEADERS: Final = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob:; worker-src 'self' blob:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Resource = Path | bytes
"""A file, or the content of a JSON document."""


def resources(student: Path, runtime: Path, images: list[ImageFile]) -> dict[str, Resource]:
    """Make the table of all addresses.

    Args:
        student: An exported student.
        runtime: Folder with the files of onnxruntime-web.
        images: The images that the page offers.

    Returns:
        Path of the URL -> what is served there.

    Raises:
        KdlibError: If the student cannot be opened.
    """
    facts = {**describe(OnnxStudent(student)), "file": student.name}
    listing = [{"name": image.name, "url": f"images/{number}"} for number, image in enumerate(images)]
    return {
        "/": PAGE / "index.html",
        **{f"/{path.name}": path for path in sorted(PAGE.iterdir())},
        **{f"/runtime/{name}": runtime / name for name in FILES},
        "/student.json": json.dumps(facts).encode(),
        "/student.onnx": student,
        "/images.json": json.dumps(listing).encode(),
        **{f"/images/{number}": image.path for number, image in enumerate(images)},
    }


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address always means the machine itself: localhost, or an address 127.x.x.x."""
    try:
        return host == LOCALHOST or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


class PageServer(ThreadingHTTPServer):
    """Serves a table of resources.

    Args:
        table: Path of the URL -> what is served there.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.

    Raises:
        TrainError: If the address cannot be used.
    """

    daemon_threads = True

    def __init__(self, table: dict[str, Resource], host: str, port: int) -> None:
        self.table = table
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "ports end at 65535"
            raise TrainError(
                f"the page cannot use {host}, port {port} ({reason}); give another --port, or another --host"
            ) from error
        self.is_local = is_loopback(host)

    @property
    def url(self) -> str:
        """The address of the page on this machine."""
        address = str(self.server_address[0])
        return f"http://{'127.0.0.1' if address == EVERY_ADDRESS else address}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that closed the connection early, as browsers do; print other errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "pose-student-page"
    sys_version = ""

    def do_GET(self) -> None:
        """Send a resource."""
        self._send(with_body=True)

    def do_HEAD(self) -> None:
        """Send the headers of a resource."""
        self._send(with_body=False)

    def end_headers(self) -> None:
        """Add the headers that all responses have."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _send(self, *, with_body: bool) -> None:
        if self.server.is_local and not is_loopback(self._asked_host()):
            # A page of another server may resolve its own name to this machine (DNS rebinding).
            self.send_error(HTTPStatus.FORBIDDEN, "open the page as http://127.0.0.1")
            return
        try:
            path = unquote(urlsplit(self.path).path)
        except ValueError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        resource = self.server.table.get(path)
        if resource is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        elif isinstance(resource, bytes):
            self._begin(TYPES[".json"], len(resource))
            if with_body:
                self.wfile.write(resource)
        else:
            self._send_file(resource, with_body=with_body)

    def _asked_host(self) -> str | None:
        """The host name of the request, without its port."""
        try:
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            return None

    def _send_file(self, path: Path, *, with_body: bool) -> None:
        try:
            file = path.open("rb")
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)  # without the name, which the line of the status may not hold
            return
        with file:
            kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
            self._begin(kind, os.fstat(file.fileno()).st_size)
            if with_body:
                shutil.copyfileobj(file, self.wfile)

    def _begin(self, kind: str, length: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()
