"""A real Chromium with the page of a small run.

Runs where a Chromium is on the PATH or named by D2ST_CHROMIUM. It is spoken to by the DevTools protocol through a pipe
(`--remote-debugging-pipe`: JSON documents, each ended by a zero byte), which needs no driver and no package.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

from d2st.adapter.report.page import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("D2ST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
# the browser reads from 3 and writes to 4; both are moved out of each other's way first
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {"Tab": 9, "Enter": 13}


class Browser:
    """A Chromium and its pages; `heard` are the events of the page that is open."""

    def __init__(self, profile):
        (read, self.out), (self.input, write) = os.pipe(), os.pipe()
        command = [sys.executable, "-c", LAUNCH, str(read), str(write), str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(command, pass_fds=(read, write), stderr=subprocess.DEVNULL)
        os.close(read)
        os.close(write)
        self.number, self.buffer, self.heard, self.session = 0, b"", [], None

    def ask(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session and not method.startswith("Target.") else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (answer := self.next()).get("id") != self.number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def next(self, *, timeout_s=60):
        """The next document, which is kept in `heard` when it is an event."""
        until = time.monotonic() + timeout_s
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.input], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self.input, 1 << 16)
            assert part, "the browser has ended"
            self.buffer += part
        document, _, self.buffer = self.buffer.partition(b"\0")
        answer = json.loads(document)
        if "method" in answer:
            self.heard.append((answer["method"], answer.get("params", {})))
        return answer

    def open(self, path, *, width=1280, scheme="light", media=""):
        """A new page, loaded; scripts see `scheme` as the system's."""
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.look(scheme=scheme, media=media)
        self.heard.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not any(name == "Page.loadEventFired" for name, _ in self.heard):
            self.next()

    def look(self, *, scheme, media=""):
        self.ask("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def run(self, script):
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, *, text=""):
        code = {"windowsVirtualKeyCode": KEYS[key]} if key in KEYS else {}
        typed = {"Enter": "\r"}.get(key, text)
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, text=typed, **code)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def tab_to(self, selector, *, most=150):
        """Press Tab until what has the focus fits `selector`."""
        for _ in range(most):
            self.press("Tab")
            if self.run(f"document.activeElement.matches({json.dumps(selector)})"):
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.out)
        os.close(self.input)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH, and D2ST_CHROMIUM does not name one")
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def page(make_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    path, _ = write_report(make_run(folder), out=folder / "page.html")
    return path
