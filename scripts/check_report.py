"""The HTML report of `lingot plan` in a real browser: nothing overflows at phone and desktop width, light
and dark.

    target/venv/bin/python scripts/check_report.py REPORT.html [--pictures FOLDER]

Needs Debian's `chromium` (or any Chromium: set CHROMIUM to its path). Without one it says so and ends with
0. The page is loaded in a frame of the width under test, since a browser's own window may refuse to be as
narrow as a phone.
"""

import argparse
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WIDTHS = (390, 1280)

FRAME = """<!doctype html><body style="margin:0"><iframe id="f" style="border:0;width:{width}px;height:9000px"
srcdoc="{page}"></iframe><pre id="found">none</pre><script>
document.getElementById("f").onload = function () {{
  const page = this.contentDocument, wide = [];
  for (const element of page.body.querySelectorAll("*")) {{
    const box = element.getBoundingClientRect();
    const name = element.tagName + "." + (element.getAttribute("class") || "");
    if (box.right > {width} + 0.5 || box.left < -0.5) wide.push(name);
  }}
  const root = page.documentElement;
  document.getElementById("found").textContent = "width " + root.scrollWidth + " height " + root.scrollHeight
    + " circles " + page.querySelectorAll("circle").length + " wide " + JSON.stringify(wide);
}};
</script>"""


def chromium() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


def browse(browser: str, page: Path, *arguments: str) -> str:
    quiet = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *quiet, f"--user-data-dir={profile}", *arguments, page.as_uri()]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return ended.stdout


def check(browser: str, report: Path, width: int, work: Path) -> None:
    frame = work / f"frame-{width}.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(report.read_text())))
    dom = browse(browser, frame, "--dump-dom", "--window-size=1400,1000", "--virtual-time-budget=4000")
    found = re.search(r'<pre id="found">width (\d+) height (\d+) circles (\d+) wide (.*?)</pre>', dom)
    assert found, f"the page did not load at {width} px"
    inner, height, circles, wide = int(found[1]), int(found[2]), int(found[3]), html.unescape(found[4])
    assert inner <= width and wide == "[]", f"at {width} px the page is {inner} px wide; too wide: {wide}"
    print(f"{report.name} at {width} px: {height} px high, {circles} points, nothing overflows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--pictures", type=Path, help="also write a PNG for each width, light and dark")
    options = parser.parse_args()
    text = options.report.read_text()
    outside = re.findall(r"(?:src|href)\s*=|@import|url\(|<script", text)
    assert not outside, f"the report is not self-contained: {outside}"
    browser = chromium()
    if browser is None:
        print("skipped: no Chromium is installed (Debian's package is chromium)")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        for width in WIDTHS:
            check(browser, options.report.resolve(), width, Path(folder))
            for name, style in [("light", None), ("dark", "dark")] if options.pictures else []:
                options.pictures.mkdir(parents=True, exist_ok=True)
                page = Path(folder) / f"picture-{width}-{name}.html"
                shown = text.replace("(prefers-color-scheme: dark)", "all") if style else text
                page.write_text(FRAME.format(width=width, page=html.escape(shown)).split("<pre")[0])
                picture = (options.pictures / f"{width}-{name}.png").resolve()
                browse(browser, page, f"--screenshot={picture}", f"--window-size={max(width, 500)},2600")


if __name__ == "__main__":
    main()
