"""What a person sees: a run's page in Prefect's own UI, its artifacts, and the report, in a real browser and offline."""

import os
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.commands import ROOT
from tests.prefect_server import HANGS_S, Served

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("EARSHOT_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
SCREENSHOTS = ROOT / "screenshots"  # kept, to be looked at
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LOADED_MS = 1000 * HANGS_S  # on a busy machine too


class Browser(NamedTuple):
    """One page of a browser, and every address that it was let ask."""

    page: "Page"
    asked: list[str]

    def look_at(self, url: str, name: str, *texts: str) -> str:
        """Open it, wait for every text, keep a picture; all visible text."""
        self.page.goto(url)
        for text in texts:
            self.page.get_by_text(text).first.wait_for(state="visible")
        return self.keep(name)

    def shows(self, text: str) -> None:
        """Wait until it stands among what is visible."""
        self.page.wait_for_function("text => document.body.innerText.includes(text)", arg=text)

    def keep(self, name: str) -> str:
        """A picture of the whole page as it is; all visible text."""
        self.page.wait_for_timeout(500)  # fonts and pictures
        SCREENSHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
        return self.page.locator("body").inner_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), timeout=LOADED_MS)
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(LOADED_MS)
        asked: list[str] = []
        page.on("requestfinished", lambda request: asked.append(request.url))
        page.on("websocket", lambda socket: asked.append(socket.url))
        yield Browser(page, asked)
        chromium.close()


def test_the_page_of_a_run_names_study_and_seed_and_leads_to_what_it_made(served: Served, served_study, browser):
    page = f"{served.url.removesuffix('/api')}/v2/runs/flow-run/{served_study}"
    browser.look_at(page, "run", "study/smoke to publish, seed 42")
    browser.shows("Completed")
    browser.page.get_by_role("tab", name="Subflow Runs").click()
    for name in ("build smoke", "train smoke", "evaluate smoke", "publish smoke-adapter"):
        browser.page.get_by_text(name).first.wait_for()
    browser.page.get_by_role("tab", name="Artifacts").click()
    browser.page.get_by_text("Results of smoke").first.wait_for()
    browser.shows("Plan of smoke up to publish")
    browser.keep("run-artifacts")


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        ("plan", ["Plan of smoke up to publish"]),
        ("results", ["report.html", "earshot verify earshot/smoke-adapter"]),
        ("data", ["NONSPEECH", "groups"]),
        ("audit", ["Leakage audit of smoke: clean"]),
        ("evaluation", ["mel_statistics"]),
        ("card-smoke-adapter", ["Model card of earshot/smoke-adapter"]),
        ("progress-training-42-0", ["Training, seed 42, fold 0: step 4 of 4"]),
    ],
)
def test_an_artifact_can_be_read(served: Served, served_study, browser, key, texts):
    artifact = served.artifacts(served_study)[key]
    text = browser.look_at(f"{served.url.removesuffix('/api')}/v2/artifacts/artifact/{artifact['id']}", key, *texts)
    assert "NaN" not in text


@pytest.mark.parametrize("key", ["training-42-0", "figure-comparisons"])
def test_a_picture_is_drawn(served: Served, served_study, browser, key):
    artifact = served.artifacts(served_study)[key]
    browser.page.goto(f"{served.url.removesuffix('/api')}/v2/artifacts/artifact/{artifact['id']}")
    drawn = browser.page.locator("img[src^='data:image/png']").first
    drawn.wait_for()
    assert drawn.evaluate("image => image.decode().then(() => image.naturalWidth)") > 400
    browser.keep(key)


def test_a_failed_run_says_on_its_page_what_to_do_next(served: Served, served_study, browser):
    flow_run = served.run("evaluate", study="study/smoke", overrides=["train.epochs=3"])
    assert served.ended(flow_run)["type"] == "FAILED"
    artifact = served.artifacts(flow_run)["what-next"]
    root = served.url.removesuffix("/api")
    browser.look_at(f"{root}/v2/runs/flow-run/{flow_run}", "failed", "train.epochs: no such key")
    browser.look_at(
        f"{root}/v2/artifacts/artifact/{artifact['id']}", "what-next", "This run stopped", "earshot evaluate"
    )


def test_the_report_opens_from_its_file(served: Served, served_study, browser):
    results = served.artifacts(served_study)["results"]["data"]
    url = re.search(r"\((file://[^)]+report\.html)\)", results)[1]
    text = browser.look_at(url, "report", "mel_statistics")
    assert "smoke" in text
    assert "95 %" in text


def test_nothing_was_asked_of_the_world(browser):
    assert browser.asked
    foreign = [
        url for url in browser.asked if not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:|file:", url)
    ]
    assert foreign == []
