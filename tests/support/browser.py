"""A page in a real browser: a script runs in it, and what it finds comes back as JSON."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256
from html import unescape
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "headless no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
)
REPORT = """
const out = document.createElement("pre");
out.id = "found";
out.textContent = JSON.stringify(found);
document.body.append(out);
"""


def browse(page: str, script: str, folder: Path, *flags: str, fragment: str = "") -> Any:
    """What a script leaves in `found` after it has run at the end of a page; skips where there is no browser.

    The page's policy allows its own script by the hash, and this one as well.
    """
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    script += REPORT
    digest = b64encode(sha256(script.encode()).digest()).decode()
    page = page.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    (folder / "page.html").write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = [chromium, *(f"--{flag}" for flag in (*FLAGS.split(), *flags)), f"--user-data-dir={folder / 'profile'}"]
    command += ["--virtual-time-budget=2000", "--dump-dom", f"file://{folder / 'page.html'}{fragment}"]
    done = subprocess.run(command, capture_output=True, timeout=300, check=True)
    shown = re.search(r'<pre id="found">(.*?)</pre>', done.stdout.decode(), re.S)
    assert shown, done.stderr.decode()
    return json.loads(unescape(shown[1]))
