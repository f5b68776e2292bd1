"""An HTTP server of a folder on loopback, with byte ranges and with the faults of real servers."""

import base64
import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote


class RangeServer:
    """Serves ``folder``. A test sets attributes, which affect the following requests.

    Attributes:
        requests: (method, path with query, Range header) of every request so far.
        sent: Bytes of all bodies sent.
        ignores_ranges: Whether to send whole files for range requests.
        entity_tags: Whether to send an ETag.
        fails: Number of next GET requests that get status 500.
        cuts: Number of next bodies that end after half of their bytes.
        dies_after: Number of GET requests after which every request gets status 503; None for never.
        password: Required credentials, ``user:password``; None for no check.
        lists: Whether the address of a folder shows a page of links, as nginx's autoindex does.
    """

    def __init__(self, folder):
        self.folder = folder
        self.requests = []
        self.sent = 0
        self.ignores_ranges = False
        self.entity_tags = True
        self.fails = 0
        self.cuts = 0
        self.dies_after = None
        self.password = None
        self.lists = False
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self):
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def ranges(self, pattern=""):
        """Return the GET requests so far whose path matches a regular expression."""
        return [request for request in self.requests if request[0] == "GET" and re.search(pattern, request[1])]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each small body waits 40 ms for the acknowledgement of its header

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        owner = self.owner
        owner.requests.append((self.command, self.path, self.headers.get("Range")))
        path = owner.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if owner.password and self.headers.get("Authorization") != "Basic " + _basic(owner.password):
            self._status(401)
        elif owner.dies_after is not None and len(owner.ranges()) > owner.dies_after:
            self._status(503)
        elif body and owner.fails:
            owner.fails -= 1
            self._status(500)
        elif owner.lists and path.is_dir():
            self._list(path)
        elif not path.is_file():
            self._status(404)
        else:
            self._send(path, body)

    def _status(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _list(self, folder):
        names = [quote(entry.name) + "/" * entry.is_dir() for entry in sorted(folder.iterdir())]
        page = "".join(f'<a href="{name}">{name}</a>\n' for name in ["../", "?C=N;O=D", *names]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def _send(self, path, body):
        data, requested = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if requested and not self.owner.ignores_ranges:
            first, last = int(requested[1]), min(int(requested[2]), len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
        if self.owner.entity_tags:
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not body:
            return
        if self.owner.cuts:
            self.owner.cuts -= 1
            data = data[: len(data) // 2]
            self.close_connection = True
        self.owner.sent += len(data)  # before the client can go on and look at it
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)


def _basic(password):
    return base64.b64encode(password.encode()).decode()
