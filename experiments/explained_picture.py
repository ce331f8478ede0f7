"""The README's picture: the page of one explained answer of the demo pair, as a browser shows it.

python -m experiments.explained_picture docs/images/explained.png     (needs playwright and chromium, or CHROMIUM=PATH)
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

QUESTION = "How do I keep bread fresh?"
WIDTH, HEIGHT, TOKENS = 1000, 790, 48


def page_of(question: str, target: Path) -> None:
    """Write the page that ``aad explain`` writes."""
    from aad_plugin import AlignedPair
    from aad_plugin.explain.explaining import explain
    from aad_plugin.explain.views import write_explanation

    write_explanation(explain(AlignedPair.from_pretrained("demo"), question, max_new_tokens=TOKENS), target)


def picture(page: Path, target: Path) -> None:
    """Write the top of a page as a PNG, the token opened that gained most by departing from greedy."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        sys.exit("no Chromium: install Debian's chromium, or set CHROMIUM to one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.5)
        shown.goto(page.resolve().as_uri())
        shown.locator("#departures button").first.click()
        shown.evaluate("scrollTo(0, 0)")
        target.parent.mkdir(parents=True, exist_ok=True)
        shown.screenshot(path=target)
        browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "why.html"
        page_of(QUESTION, made)
        picture(made, Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images/explained.png"))
