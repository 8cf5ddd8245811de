"""What the page looks like: quiet, whole and no wider than the window, in light, dark and print.

With D2ST_SHOTS=FOLDER its looks are saved there as PNG.
"""

import base64
import os
from pathlib import Path

import pytest

LOOKS = [(1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_quiet_whole_and_no_wider_than_the_window(browser, page, width, scheme):
    browser.open(page, width=width, scheme=scheme)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("for (const part of document.querySelectorAll('details')) part.open = true")
    assert browser.run("document.documentElement.scrollWidth") <= width
    dark = browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert dark == (scheme == "dark")
    assert browser.run("[...document.images].every((image) => image.complete && image.naturalWidth === 112)")
    assert browser.run("window.hacked") is None
    noise = [
        event
        for event in browser.heard
        if event[0] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    ]
    assert noise == []
    asked = [told["request"]["url"] for name, told in browser.heard if name == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    if folder := os.environ.get("D2ST_SHOTS"):
        size = browser.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], 8000), "scale": 1}
        shot = browser.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        Path(folder, f"report-{width}-{scheme}.png").write_bytes(base64.b64decode(shot))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(browser, page, scheme):
    """WCAG 2.2: 4.5 for text, 3 for lines and marks."""
    browser.open(page, scheme=scheme)
    colours = browser.run(
        "Object.fromEntries(['ground', 'raised', 'ink', 'quiet', 'blue', 'vermilion', 'green', 'purple', 'orange', 'warn'].map((name) => {"
        " const part = document.createElement('i'); part.style.color = `var(--${name})`; document.body.append(part);"
        " return [name, getComputedStyle(part).color.match(/[\\d.]+/g).slice(0, 3).map(Number)]; }))"
    )

    def luminance(name):
        linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colours[name]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a, b):
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    texts = [
        ("ink", "ground"),
        ("ink", "raised"),
        ("ink", "warn"),
        ("quiet", "ground"),
        ("quiet", "raised"),
        ("blue", "ground"),
    ]
    assert {pair: contrast(*pair) for pair in texts if contrast(*pair) < 4.5} == {}
    lines = [(name, "ground") for name in ("blue", "vermilion", "green", "purple", "orange")]
    assert {pair: contrast(*pair) for pair in lines if contrast(*pair) < 3} == {}


def test_lines_differ_without_colour(browser, page):
    browser.open(page)
    looks = browser.run(
        "[0, 1, 2, 3, 4, 5].map((n) => { const part = document.createElementNS('http://www.w3.org/2000/svg', 'line');"
        " part.setAttribute('class', `line s${n}`); document.querySelector('.chart svg').append(part);"
        " return getComputedStyle(part).strokeDasharray; })"
    )
    assert len(set(looks)) == len(looks)
    fake, real = (browser.run(f"getComputedStyle(document.querySelector('.bar.{name}')).fill") for name in ("fake", "real"))
    assert "hatch" in fake
    assert "hatch" not in real


def test_print_is_light_and_shows_everything(browser, page):
    browser.open(page, scheme="dark", media="print")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.run("getComputedStyle(document.querySelector('.tall')).overflow") == "visible"
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("[...document.querySelectorAll('details')].every((part) => part.open)")


def test_policy_stops_a_script_that_is_not_its_own(browser, page, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(
        page.read_text().replace(
            "<footer>", "<script>window.hacked = 3</script><img src=x onerror='window.hacked = 4'><footer>"
        )
    )
    browser.open(broken)
    assert browser.run("window.hacked") is None
    assert browser.run("document.querySelector('#samples-count').textContent") == "40 samples"


def test_without_scripts_everything_is_there_to_read(browser, page):
    browser.open(page)
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    browser.heard.clear()
    browser.ask("Page.reload")
    while not any(name == "Page.loadEventFired" for name, _ in browser.heard):
        browser.next()
    browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.run("document.querySelector('#filters').hidden && document.querySelector('#theme').hidden")
    assert browser.run("document.querySelectorAll('#samples-table tbody tr').length") == 40
    assert browser.run("document.querySelectorAll('.chart svg').length") >= 10
