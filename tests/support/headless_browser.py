"""A page in a headless Chromium, controlled through its debugging pipe; the test is skipped without Chromium."""

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
)
PATIENCE = 120
"""Seconds to wait for a reply, enough for a busy machine."""


class Browser:
    """One page. `events` are the messages of the protocol that are not replies.

    Args:
        process: The running browser.
        commands: File descriptor to which commands are written.
        replies: File descriptor from which messages are read.
        log: File with what the browser writes to stderr, shown where it ends too early.
    """

    def __init__(self, process, commands, replies, log):
        self.process, self.commands, self.replies, self.log = process, commands, replies, log
        self.events, self.buffer, self.count, self.session = [], b"", 0, None
        self.poll = select.poll()  # select() does not support descriptors above 1,023
        self.poll.register(replies, select.POLLIN)
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Send one command and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (reply := self._next()).get("id") != self.count:
            self.events.append(reply)
        assert "error" not in reply, reply
        return reply["result"]

    def _next(self):
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self.buffer:
            if not self.poll.poll(1000 * max(0, deadline - time.monotonic())):
                raise TimeoutError(f"no message from the browser for {PATIENCE} s")
            data = os.read(self.replies, 1 << 20)
            assert data, f"the browser ended with {self.process.wait(PATIENCE)}: {self.log.read_text()[-2000:]}"
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, address, width, height, *, dark=False):
        """Open an address at a size in CSS pixels and wait until it is loaded."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression):
        """Return the value of a JavaScript expression, awaited."""
        reply = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def errors(self):
        """Return errors and warnings of the console, and exceptions, since the page was opened."""
        entries = [e["params"]["entry"] for e in self.events if e.get("method") == "Log.entryAdded"]
        found = [entry["text"] for entry in entries if entry["level"] in ("error", "warning")]
        calls = [e["params"] for e in self.events if e.get("method") == "Runtime.consoleAPICalled"]
        found += [str(call["args"]) for call in calls if call["type"] in ("error", "warning", "assert")]
        return found + [e["params"] for e in self.events if e.get("method") == "Runtime.exceptionThrown"]

    def requests(self):
        """Return the addresses requested since the page was opened, except ``data:``."""
        sent = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [address for address in sent if not address.startswith("data:")]


@contextlib.contextmanager
def browser(profile, *flags):
    """Run a browser with its profile in a folder, and with further flags."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    (read_end, commands), (replies, write_end) = os.pipe(), os.pipe()
    inside = [
        fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_end, write_end)
    ]  # so that dup2 to 3 and 4 overwrites neither
    start = "import os, sys; [os.dup2(int(sys.argv[i]), i + 2) for i in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"
    command = [program, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"]
    log = Path(profile) / "stderr.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", start, *map(str, inside), *command],
            pass_fds=inside,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        )
    for end in (read_end, write_end, *inside):
        os.close(end)
    try:
        yield Browser(process, commands, replies, log)
    finally:
        os.close(commands)
        os.close(replies)
        process.terminate()
        process.wait(timeout=PATIENCE)
