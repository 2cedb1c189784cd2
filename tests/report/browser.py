"""A page in headless chromium: what it says of itself at some width, and how it looks.

A window of chromium is 500 px wide at least, so the page is shown in a frame of the width that is asked for. A probe
within it tells the outer page of errors, of what was blocked, and of what is wider than the frame.
"""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PROBE = """<script>
const errors = [];
const lost = (event) => event.message || `not loaded: ${event.target.tagName}`;
addEventListener("error", (event) => errors.push(lost(event)), true);
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => errors.push("blocked: " + event.blockedURI));
addEventListener("load", () => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  scrollTo(0, SCROLL);
  setInterval(() => {  // the last report counts: on a busy machine the first frame comes late
    const root = document.documentElement, width = root.clientWidth;
    const scrolls = (one) => one !== document.body && one !== root && getComputedStyle(one).overflowX !== "visible";
    const sticksOut = (one) => {
      if (one.getBoundingClientRect().right <= width + 1) return false;
      for (let up = one.parentElement; up; up = up.parentElement) if (scrolls(up)) return false;
      return true;
    };
    const wide = [...document.querySelectorAll("body *")].filter(sticksOut);
    parent.postMessage({
      errors, width, scroll: root.scrollWidth, height: root.scrollHeight,
      wide: wide.slice(0, 5).map((one) => one.outerHTML.slice(0, 120)),
      plots: document.querySelectorAll(".plot").length,
      drawn: document.querySelectorAll(".plot:has(.main-svg)").length,
      images: [...document.images].filter((image) => image.complete && image.naturalWidth).length,
    }, "*");
  }, 2000);
});
</script>"""
FRAME = """<!doctype html><body style="margin:0">
<iframe src="probed.html" width="{width}" height="{height}" style="border:0;display:block"></iframe><pre></pre>
<script>
addEventListener("message", (event) => {{ document.querySelector("pre").textContent = JSON.stringify(event.data); }});
</script>"""


def visit(page: Path, width: int, folder: Path, height: int = 900, scroll: int = 0) -> dict[str, Any]:
    """Open a page; writes `shot.png` into `folder`, which is to be a new one, and returns what the probe tells."""
    assert BROWSER
    folder.mkdir(parents=True, exist_ok=True)
    text = page.read_text(encoding="utf-8")
    assert "<title>" in text
    probed = text.replace("<title>", PROBE.replace("SCROLL", str(scroll)) + "<title>", 1)
    (folder / "probed.html").write_text(probed, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width, height=height), encoding="utf-8")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=40000",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},{height}",
        f"--screenshot={folder / 'shot.png'}", "--dump-dom",
    ]  # fmt: skip
    command = [BROWSER, *flags, (folder / "frame.html").as_uri()]
    output = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    said = re.search(r"<pre>(.+?)</pre>", output)
    assert said, "the page told nothing"
    return json.loads(html.unescape(said[1]))
