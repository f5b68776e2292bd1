"""A web server on loopback for downloads, with the faults of real servers."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """The served files and the faults of the server.

    Attributes:
        files: Path -> content.
        ranges: Whether Range requests are honoured.
        compares: Whether If-Range is honoured.
        drop_after: Bytes of a body after which the connection breaks; None for never.
        version: The ETag.
        requests: (path, Range header) of every request so far.
    """

    def __init__(self):
        self.compares = True
        self.files, self.ranges, self.drop_after, self.version, self.requests = {}, True, None, 1, []
        self.url = ""


@contextlib.contextmanager
def serve():
    """Serve a `Site` at ``site.url`` while the block runs."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requested = self.headers.get("Range")
            site.requests.append((self.path, requested))
            content = site.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            tag = f'"{site.version}"'
            start = 0
            same = not site.compares or self.headers.get("If-Range") in (None, tag)
            if requested and site.ranges and same:
                start = int(requested.removeprefix("bytes=").removesuffix("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = len(content) if site.drop_after is None else min(len(content), start + site.drop_after)
            self.wfile.write(content[start:end])
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
