"""The pages in a real browser, opened from disk: they load clean and do what they say, by mouse, keys and on a phone.

make test-browser
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aad_plugin.explain.shown_pictures import write_shown
from aad_plugin.report import content
from aad_plugin.report.building import build_report, read_runs
from aad_plugin.sources.images import read_picture
from tests.report.planted import NASTY, texts, write_run
from tests.report.test_report import drawn, samples_of, trace_for

pytestmark = pytest.mark.browser
REFUSAL = "I'm sorry, but I can't help with that request."


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no Chromium: install Debian's chromium, or set CHROMIUM to one"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    """Reports built once: two runs of 60 documents, hostile texts, and 10,000 answers of 1,000 characters."""
    root = tmp_path_factory.mktemp("pages")
    answers = texts(60, 200)
    answers[7]["aad"] = REFUSAL
    answers[9]["greedy"] = REFUSAL
    answers[11]["aad"] = "The zebra stands alone."
    first = write_run(root / "first", answers, p_of=drawn)
    trace_for(first / "trace", samples_of(first)[:20])
    second = write_run(root / "second", texts(60, 300, seed=1), p_of=drawn, seed=3)
    build_report(read_runs([str(first)]), root / "one.html")
    build_report(read_runs([str(first), str(second)]), root / "two.html")
    nasty = [{"aad": text, "greedy": text[::-1]} for text in NASTY.values()]
    prompts = [f"{name} {text}" for name, text in NASTY.items()]
    hostile = write_run(root / "hostile", nasty, prompts=prompts, p_of=drawn, task="<img src=x onerror=alert(1)>")
    # No tokenizer decodes to half a surrogate pair.
    trace_for(hostile / "trace", [row for row in samples_of(hostile) if "\ud800" not in row["resps"][0][0]])
    build_report(
        read_runs([f"<b>run</b>={hostile}"]), root / "hostile.html", title="</title><script>window.hacked=9</script>"
    )
    large = write_run(root / "large", texts(5000, 1000), p_of=drawn)
    build_report(read_runs([str(large)]), root / "large.html")
    return root


@pytest.fixture(scope="module")
def pages_with_pictures(tmp_path_factory) -> Path:
    """A report of 200 documents with pictures, and one that has room for none."""
    root = tmp_path_factory.mktemp("seen")
    seen = write_run(root / "seen", texts(200, 500))
    write_shown(seen / "out" / "model", 0, {"planted": photographs(200)})
    build_report(read_runs([str(seen)]), root / "pictures.html")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(content, "_MAX_PICTURES", 1000)
        build_report(read_runs([str(seen)]), root / "crowded.html")
    return root


def photographs(number: int) -> list:
    """Pictures of a photograph's entropy: (document, rendered prompt, its one or two pictures)."""
    noise = np.random.default_rng(0)
    found = []
    for document in range(number):
        coarse = noise.integers(0, 256, (1 + (document % 2 == 0), 45, 60, 3), dtype=np.uint8)
        pictures = [read_picture(Image.fromarray(one).resize((480, 360), Image.Resampling.BICUBIC)) for one in coarse]
        found.append((document, f"<user>Question {document}: what is {document} plus {document}?<assistant>", pictures))
    return found


class Opened:
    """A page with everything it asked for or complained about."""

    def __init__(self, browser, path: Path, width: int = 1200, height: int = 900, **options) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height}, **options)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        started = time.monotonic()
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready] #browser .tabulator-row")
        self.seconds = time.monotonic() - started

    def count(self, text: str) -> None:
        """Wait until the browser of answers shows so many."""
        self.page.locator("#count", has_text=text).wait_for()

    def row(self, number: int) -> str:
        """Texts of a row on screen."""
        return self.page.locator("#browser .tabulator-row").nth(number).inner_text()

    def wide(self) -> int:
        """How far the page scrolls sideways, in pixels."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture
def opened(browser, pages):
    """Open a page of those above; at the end it must have been silent and asked for nothing but itself."""
    found = []

    def open_page(name: str = "one", **options) -> Opened:
        found.append(Opened(browser, pages / f"{name}.html", **options))
        return found[-1]

    yield open_page
    for one in found:
        own = one.page.url.partition("#")[0]
        one.page.close()
        assert one.complaints == [] and {url.partition("#")[0] for url in one.requests} == {own}


def test_search_filters_and_sorting(opened):
    one = opened()
    page = one.page
    one.count("60 of 60 documents")
    page.fill("#search", "ZEBRA stands")
    one.count("1 of 60")
    assert "doc-00011" in one.row(0)
    page.fill("#search", "")
    one.count("60 of 60")
    lost = sum(verdict["p"] is not None and verdict["p"] < 0.5 for doc in _docs(page) for verdict in doc["v"])
    page.select_option("#outcome", "lost")
    one.count(f"{lost} of 60")
    page.select_option("#outcome", "unjudged")
    one.count("1 of 60")
    page.select_option("#outcome", "")
    for field, documents in (("candidateRefuses", ["doc-00007"]), ("rivalRefuses", ["doc-00009"])):
        page.click(f"#filters [data-field={field}]")
        one.count(f"{len(documents)} of 60")
        assert documents[0] in one.row(0)
        page.click(f"#filters [data-field={field}]")
    page.click("#filters [data-field=inconsistent]")
    page.locator("#browser .tabulator-row", has_text="judge inconsistent").first.wait_for()
    page.click("#filters [data-field=inconsistent]")
    one.count("60 of 60")
    page.click("#browser .tabulator-col[tabulator-field=p] .tabulator-col-content")
    values = [doc["v"][0]["p"] for doc in _docs(page) if doc["v"][0]["p"] is not None]
    assert f"{min(values):.2f}" in one.row(0)
    page.fill("#search", "no such words")
    page.locator("text=No answers match.").wait_for()


def test_a_pair_opens_with_verdict_words_and_tokens(opened):
    page = opened().page
    page.click("#browser .tabulator-row")
    detail = page.locator("#detail")
    assert "planted · doc-00000 (1 of 60)" in detail.inner_text()
    assert [head.inner_text() for head in detail.locator(".answer h3").all()] == ["aad", "greedy"]
    assert "The answer shown first is better at greedy0-1" in detail.inner_text()
    assert "the orders contradict each other" in detail.inner_text()
    page.click(".by-token")
    tokens = detail.locator(".token[role=option]")
    answer = _docs(page)[0]["a"][0][2]
    assert "".join(tokens.all_text_contents()) == answer
    tokens.nth(3).click()
    said = detail.locator(".token-detail").inner_text()
    assert "Greedy would have taken “<b>other”: gain" in said and "π_reference" in said
    page.keyboard.press("Escape")
    assert not page.locator("#detail[open]").count()


def test_rows_stay_where_they_are_until_the_window_changes(opened):
    """A click on a row that is drawn anew between the button's way down and its way up is no click."""
    page = opened(height=500).page
    row = page.locator("#browser .tabulator-row").first
    row.evaluate(
        """row => {
            window.drawn = 0;
            const watch = new MutationObserver((changes) => { window.drawn += changes.length; });
            watch.observe(row.parentNode, { childList: true });
        }"""
    )
    row.scroll_into_view_if_needed()
    page.wait_for_timeout(300)  # for whatever waits for the table to come into view
    assert page.evaluate("window.drawn") == 0
    page.set_viewport_size({"width": 600, "height": 500})
    for _ in range(100):
        if row.evaluate("row => row.offsetWidth < 600"):
            break
        page.wait_for_timeout(50)
    assert page.evaluate("window.drawn") > 0 and row.evaluate("row => row.offsetWidth < 600")


def test_everything_by_keyboard(opened):
    page = opened().page
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("question")
    page.focus("#browser")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    title = page.locator("#detail-title")
    assert title.inner_text().endswith("doc-00001 (2 of 60)")
    page.keyboard.press("j")
    assert title.inner_text().endswith("doc-00002 (3 of 60)")
    page.keyboard.press("k")
    page.keyboard.press("k")
    assert title.inner_text().endswith("doc-00000 (1 of 60)")
    page.focus(".by-token")
    page.keyboard.press("Space")
    page.focus(".tokens")
    for key in ("ArrowRight", "ArrowRight", "End"):
        page.keyboard.press(key)
    assert page.locator(".token.current").inner_text() == _docs(page)[0]["a"][0][2][-2:]
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "browser"
    page.keyboard.press("End")
    page.locator("#browser .cursor", has_text="doc-00059").wait_for()


@pytest.mark.parametrize("name", ["one", "two", "hostile"])
def test_a_phone_needs_no_sideways_scrolling(opened, name):
    one = opened(name, width=380, height=800)
    assert one.wide() == 0
    one.page.click("#browser .tabulator-row")
    assert one.wide() == 0
    box = one.page.locator("#detail").bounding_box()
    assert box and box["x"] >= 0 and box["x"] + box["width"] <= 380
    assert one.page.evaluate("(n => n.scrollWidth <= n.clientWidth)(document.getElementById('detail'))")


def test_dark_and_light_are_readable(opened):
    for scheme, dark in (("dark", True), ("light", False)):
        page = opened(color_scheme=scheme).page
        for selector in ("body", "#browser .tabulator-row", "#win-table .tabulator-row", "select"):
            colours = page.eval_on_selector(
                selector, "n => [getComputedStyle(n).color, getComputedStyle(n).backgroundColor]"
            )
            ink, paper = (_brightness(colour) for colour in colours)
            assert (paper < 0.25 < 0.7 < ink) if dark else (ink < 0.25 < 0.7 < paper), (selector, colours)


def test_several_runs_stand_side_by_side(opened):
    page = opened("two").page
    assert page.locator("#win-chart svg[aria-label='win rate']").count() == 1
    assert page.locator("#win-table .tabulator-row").count() == 2
    page.click("#browser .tabulator-row")
    heads = [head.inner_text() for head in page.locator(".answer h3").all()]
    assert sorted(heads) == ["aad · first", "aad · second", "greedy · first", "greedy · second"]
    page.keyboard.press("Escape")
    page.select_option("#comparison", label="second · aad vs greedy")
    page.click("#browser .tabulator-row")
    assert "second · aad vs greedy" in page.locator("#detail").inner_text()


def test_hostile_texts_are_text(opened):
    one = opened("hostile")
    page = one.page
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    assert page.locator("#title").inner_text() == "</title><script>window.hacked=9</script>"
    page.focus("#browser")
    for number, (name, text) in enumerate(NASTY.items()):
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        shown = page.locator("#detail .answer .text").first
        wanted = text.replace("\x00", "␀").replace("\x1b", "␛").replace("\ud800", "\ufffd")
        got = shown.evaluate("n => n.textContent.replace(/[\\ud800-\\udfff]/gu, '\\ufffd')")
        assert got == wanted, name
        assert shown.evaluate("n => getComputedStyle(n).unicodeBidi") == "isolate"
        assert shown.evaluate("n => n.scrollWidth <= n.clientWidth"), name
        if name != "nul":
            page.locator("#detail .by-token").first.click()
            assert page.locator("#detail .tokens").first.evaluate("n => n.textContent") == wanted
        assert page.locator("#detail").evaluate("n => n.querySelectorAll('script, img').length") == 0
        page.keyboard.press("Escape")
        assert f"doc-{number:05}" in page.locator("#browser .cursor").inner_text()
    assert page.evaluate("window.hacked") is None and dialogs == []
    assert page.evaluate("document.querySelectorAll('main img, main b, main script').length") == 0


def test_no_script_but_the_pages_own_may_run(browser, pages):
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((pages / "one.html").as_uri())
    page.evaluate(
        "() => document.body.append(Object.assign(document.createElement('script'), { text: 'window.hacked = 1' }))"
    )
    page.evaluate("() => { new Image().src = 'http://127.0.0.1:9/x.png'; }")
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert len([text for text in complaints if "Content Security Policy" in text]) == 2
    page.close()


def test_ten_thousand_answers_are_one_page_that_is_searched(opened, pages):
    size = (pages / "large.html").stat().st_size
    one = opened("large")
    print(f"{size / 1e6:.1f} MB, usable after {one.seconds:.2f} s")
    assert size < 30_000_000
    one.page.fill("#search", "garden letter window")
    one.page.wait_for_selector("#count:not(:has-text('5,000 of 5,000'))")
    assert re.match(r"\d{3} of 5,000", one.page.locator("#count").inner_text())
    one.page.click("#browser .tabulator-row")
    one.page.wait_for_selector("#detail[open] mark")


def test_two_hundred_documents_with_pictures(browser, pages_with_pictures):
    path = pages_with_pictures / "pictures.html"
    one = Opened(browser, path)
    page = one.page
    print(f"{path.stat().st_size / 1e6:.1f} MB, usable after {one.seconds:.2f} s")
    assert path.stat().st_size < 30_000_000
    assert page.locator("img").count() == 0  # nothing is unpacked before it is looked at
    page.click("#browser .tabulator-row")
    shown = page.locator("#detail img.shown")
    assert shown.count() == 2 and "480 × 360 pixels" in shown.first.get_attribute("alt")
    shown.first.evaluate("node => node.decode()")
    assert shown.first.evaluate("node => [node.naturalWidth, node.naturalHeight]") == [320, 240]
    page.keyboard.press("j")
    assert shown.count() == 1
    page.set_viewport_size({"width": 380, "height": 800})
    assert one.wide() == 0
    assert page.evaluate("(n => n.scrollWidth <= n.clientWidth)(document.getElementById('detail'))")
    assert one.complaints == [] and {url.partition(":")[0] for url in one.requests} <= {"file", "data"}
    page.close()


def test_pictures_without_room_are_counted(browser, pages_with_pictures):
    page = Opened(browser, pages_with_pictures / "crowded.html").page
    page.click("#browser .tabulator-row")
    assert page.locator("#detail img.shown").count() == 0
    assert "2 more pictures: the page has no room for all (300 are left out)" in page.locator("#detail").inner_text()
    page.close()


def test_it_prints(opened):
    page = opened().page
    page.emulate_media(media="print")
    assert page.locator("#win-chart svg").first.is_visible() and not page.locator("#controls").is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_the_explanations_page(browser, tmp_path):
    from aad_plugin.explain.explaining import explain
    from aad_plugin.explain.views import write_explanation
    from tests.pairs import toy_pair

    found = explain(toy_pair("reference_plus_lora").pair, "<script>window.hacked = 1</script>", max_new_tokens=16)
    write_explanation(found, tmp_path / "e.html")
    page = browser.new_page(viewport={"width": 380, "height": 800})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "e.html").as_uri())
    assert page.locator("#answer .token[role=option]").count() == len(found.steps)
    assert page.locator("#reward svg").count() == 1 and page.evaluate("window.hacked") is None
    page.locator("#departures button").first.click()
    number = found.departures()[0][0]
    assert page.locator("#answer .token[role=option]").nth(number).get_attribute("aria-selected") == "true"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert complaints == []
    page.close()


def _docs(page) -> list[dict]:
    return json.loads(page.locator("#data").text_content())["docs"]


def _brightness(colour: str) -> float:
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return (0.3 * red + 0.6 * green + 0.1 * blue) / 255


def test_every_page_is_readable_at_a_phones_and_a_desks_width(browser, pages, tmp_path):
    """Cells a letter wide, headers cut to "outco…", pages wider than their window, keys named on a touch screen."""
    from aad_plugin.explain.records import Explanation, Step, Token
    from aad_plugin.explain.views import write_explanation

    tokens = [Token(i, f" considerable{i}", -0.1 * i - 0.1, -0.2 * i - 0.3) for i in range(3)]
    steps = tuple(Step(tokens[i % 3], tokens[0], tuple(tokens), 3) for i in range(30))
    write_explanation(
        Explanation("why?", "x", {"strategy": "aad", "alpha": 0.1}, steps, pair="demo"), tmp_path / "why.html"
    )
    for width in (390, 1280):
        for scheme in ("light", "dark"):
            phone = width == 390
            context = browser.new_context(
                viewport={"width": width, "height": 844}, color_scheme=scheme, has_touch=phone, is_mobile=phone
            )
            page = context.new_page()
            for file in (tmp_path / "why.html", pages / "two.html"):
                page.goto(file.as_uri())
                page.wait_for_timeout(300)
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (file.name, width)
            keys = page.locator("dialog .key").evaluate_all("all => all.map((one) => getComputedStyle(one).display)")
            assert keys == ["none" if phone else "inline"] * 2
            table = page.locator("#win-table .tabulator-tableholder")
            assert phone or table.evaluate("node => node.scrollWidth <= node.clientWidth"), "win rates need scrolling"
            cut = page.locator("#browser .tabulator-col-title").evaluate_all(
                "all => all.filter((n) => n.offsetParent && n.scrollWidth > n.clientWidth).map((n) => n.textContent)"
            )
            assert cut == [], (width, cut)
            page.goto((tmp_path / "why.html").as_uri())
            assert page.locator("#page-title").inner_text() == "Why each token, pair demo"
            narrow = page.locator("table.cards bdi").evaluate_all(
                "all => all.filter((n) => n.getClientRects().length > 2).length"
            )
            assert narrow == 0, "a word of a table is broken over several lines"
            heights = set()
            for number in (0, 5, 7):
                page.locator(".token").nth(number).click()
                assert page.locator("tr.chosen").count() == 1
                heights.add(page.locator("#reward").bounding_box()["y"] + page.evaluate("scrollY"))
            assert len(heights) == 1, "what stands below the pane of a token jumps"
            context.close()
