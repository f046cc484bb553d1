"""A page opened by Debian's chromium, without a window: what a script finds there, and errors that the page had."""

import html
import json
import re
import shutil
import subprocess

import pytest

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium here (apt-get install chromium)")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--virtual-time-budget=8000")

#: before anything else of the page: its errors are kept
WATCH = """<script>const errors = [];
addEventListener("error", (e) => errors.push(String(e.message || e.target.src)), true);
addEventListener("unhandledrejection", (e) => errors.push(String(e.reason)));
console.error = (...words) => errors.push(words.join(" "));</script>"""
#: behind everything: the test's own steps, and what they return
STEPS = """<script>addEventListener("load", async () => {{
const wait = () => new Promise((done) => setTimeout(done, 50));
let found = null;
try {{ found = await (async () => {{ {steps} }})(); }} catch (error) {{ errors.push(String(error)); }}
const out = document.createElement("pre");
out.id = "what-was-found";
out.textContent = JSON.stringify({{ found, errors }});
document.body.append(out);
}});</script>"""


def opened(page, folder, steps, fragment=""):
    """What the JavaScript ``steps`` (the body of an async function that has ``wait()``) return on a page, and the
    errors that the page had meanwhile."""
    text = page.read_text().replace("<head>", "<head>" + WATCH, 1)
    text = text.replace("</body>", STEPS.format(steps=steps) + "</body>")
    copy = folder / "opened.html"
    copy.write_text(text)
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", f"{copy.as_uri()}{fragment}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    result = re.search(r'<pre id="what-was-found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, done.stderr[-2000:]
    answer = json.loads(html.unescape(result[1]))
    return answer["found"], answer["errors"]
