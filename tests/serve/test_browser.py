"""The page in a browser without a window: Chromium, driven by its own driver, where both are installed."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request

import numpy as np
import pytest

from kernelfit.imageio.kernels import read_kernel
from served import serving

PIL = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs Chromium and chromedriver"),
]
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver, 11: how an element is named


class Browser:
    """A session of W3C WebDriver, as far as it is needed here."""

    def __init__(self, folder):
        self.folder = folder
        self.driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
        port = next(
            line.split("port ")[1].rstrip(".\n") for line in self.driver.stdout if "successfully on port" in line
        )
        self.base = f"http://127.0.0.1:{port}"
        words = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            f"--user-data-dir={folder / 'profile'}",
        ]
        options = {"binary": BROWSER, "args": words, "prefs": {"download.default_directory": str(folder)}}
        wanted = {
            "alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
            }
        }
        self.base += f"/session/{self.send('POST', '/session', capabilities=wanted)['sessionId']}"

    def send(self, verb, path, **fields):
        data = json.dumps(fields).encode() if verb == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=verb)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def close(self):
        self.send("DELETE", "")
        self.driver.terminate()
        self.driver.wait()
        self.driver.stdout.close()

    def size(self, width, height):
        self.send("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride",
                  params={"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip

    def script(self, text, *values):
        return self.send("POST", "/execute/sync", script=text, args=list(values))

    def find(self, selector):
        return self.send("POST", "/element", using="css selector", value=selector)[ELEMENT]

    def click(self, selector):
        self.send("POST", f"/element/{self.find(selector)}/click")

    def type(self, selector, text):
        self.send("POST", f"/element/{self.find(selector)}/value", text=text)

    def text(self, selector):
        return self.send("GET", f"/element/{self.find(selector)}/text")

    def until(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while not self.script(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"{condition}: {self.script('return document.body.innerText')}"
            time.sleep(0.1)

    def shot(self, name):
        found = self.send("POST", "/goog/cdp/execute", cmd="Page.captureScreenshot",
                          params={"format": "png", "captureBeyondViewport": True})  # fmt: skip
        (self.folder / name).write_bytes(base64.b64decode(found["data"]))

    def complaints(self):
        """What the browser itself had to say: errors of scripts, and what the policy forbade."""
        return [one["message"] for one in self.send("POST", "/se/log", type="browser")]


DROP = """
const [side, files] = arguments, carried = new DataTransfer();
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
for (const [name, data] of files) carried.items.add(new File([bytes(data)], name));
const zone = document.querySelector(`.drop[data-side=${side}]`);
zone.dispatchEvent(new DragEvent("dragover", {dataTransfer: carried, cancelable: true, bubbles: true}));
zone.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, cancelable: true, bubbles: true}));
"""


@pytest.fixture
def browser(tmp_path):
    found = Browser(tmp_path)
    yield found
    found.close()


def drop(browser, side, *paths):
    browser.script(DROP, side, [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths])


def test_two_pictures_dropped_a_bad_file_and_a_download(browser, tmp_path, pair):
    before, after, truth = pair
    with serving() as page:
        browser.send("POST", "/url", url=page.opening)
        assert browser.script("return location.href") == page.address
        browser.size(1280, 900)
        drop(browser, "image", before, after)
        assert before.name in browser.text(".drop[data-side=image] .name")
        browser.until("document.querySelector('.drop[data-side=target] img').naturalWidth")
        browser.type("[name=shape]", "3,5")
        browser.shot("form_1280.png")
        browser.click("button.main")
        browser.until("document.querySelector('#report').contentDocument?.querySelector('h1')")
        assert "From before.png to after.png" in browser.text("#report-title")
        assert "solved" in browser.text("#jobs li .state")
        assert "Solved" in browser.script("return document.querySelector('#report').contentDocument.body.innerText")
        browser.until("document.querySelector('#report').clientHeight > 1500")  # as high as what is in it
        browser.shot("report_1280.png")
        browser.click("#links a[href$='kernel.npz/save']")
        kept = tmp_path / "kernel.npz"
        end = time.monotonic() + 20
        while not kept.exists() and time.monotonic() < end:
            time.sleep(0.1)
        assert np.abs(read_kernel(kept).kernel - truth).max() < 0.02

        bad = tmp_path / "<b>bad<b>&amp;.png"
        bad.write_bytes(b"not a picture")
        browser.type("#target", str(bad))  # chosen, not dropped
        browser.click("button.main")
        browser.until("document.querySelector('#jobs li.failed')")
        assert "another format" in browser.text("#jobs li.failed .error")
        assert browser.script("return document.querySelector('#jobs b')") is None

        for width in (1280, 400):
            browser.size(width, 900)
            browser.until("document.documentElement.scrollWidth <= innerWidth")
            browser.shot(f"all_{width}.png")
        assert not browser.complaints()


def test_a_job_is_cancelled(browser, pair):
    before, after, _ = pair
    with serving(seconds=60) as page:
        browser.send("POST", "/url", url=page.address)
        drop(browser, "image", before)
        drop(browser, "target", after)
        browser.click("button.main")
        browser.until("document.querySelector('#jobs .state')?.textContent.startsWith('waiting for')")
        browser.click("#jobs .cancel")
        browser.until("document.querySelector('#jobs li.cancelled')")
