"""The page in a real browser: Debian's chromium, driven by playwright. `make test-browser` installs both."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from cli.home.event_store import EventStore
from cli.home.paths import Home
from cli.inbox.accept import skip_job
from core import commands
from events.kinds import VersionEvaluated
from projections.machine import MachineView, MemoryView
from projections.machine_samples import append_sample, sample_of
from projections.status import plain
from tests.events.examples import EVALUATED
from tests.harness.daemon import run_until_idle
from tests.projections.evaluation.test_matrix import THREE, chart

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).parents[3]

CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `make test-browser`")]

EVIL = "<img src=x onerror=alert(1)>.jsonl"


class Monitor:
    """A monitor process that can be killed and started again on the same port."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.port = 0
        self.address = ""
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli", "monitor", "--port", str(self.port), "--home", str(self.home.root)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().decode().strip()
        self.port = int(self.address.rpartition(":")[2].partition("/")[0])

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def monitor(home: Home) -> Iterator[Monitor]:
    """The monitor of a home with a past."""
    started = Monitor(home)
    yield started
    started.kill()


@pytest.fixture
def page(monitor: Monitor) -> Iterator[Page]:
    """The page, open and signed in. A script error or a dialog that nobody asked for fails the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: `make test-browser`")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened: Page = browser.new_page(viewport={"width": 375, "height": 800})
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("dialog", lambda dialog: problems.append(dialog.message))
        opened.on("request", lambda asked: problems.append(asked.url) if "127.0.0.1" not in asked.url else None)
        opened.goto(monitor.address)
        opened.locator("#queue td").first.wait_for()
        yield opened
        browser.close()
    assert problems == []


def settle(home: Home) -> None:
    """End what is in progress: a paused daemon notices that the attempt is gone, and the job is skipped."""
    execute(home, commands.Pause())
    run_until_idle(home)
    with closing(EventStore.open(home)) as store:
        skip_job(store, None)


def execute(home: Home, command: commands.AnyCommand) -> None:
    with closing(EventStore.open(home)) as store:
        store.execute(command)


def seqs(page: Page) -> list[int]:
    """The numbers of the records that the page shows, the newest first."""
    return [int(text.split()[0]) for text in page.locator("#journal li").all_inner_texts()]


def record(page: Page, seq: int) -> Locator:
    """A record by its number, which its line begins with; other lines may contain the same digits."""
    return page.locator("#journal li").filter(has_text=re.compile(rf"^\s*{seq}\s"))


def test_the_page_shows_the_home_and_keeps_the_token_out_of_its_address(page: Page, monitor: Monitor) -> None:
    assert "token" not in page.url
    assert "in-progress.jsonl" in page.locator("#queue").inner_text()
    assert "v002" in page.locator("#models").inner_text()
    assert page.locator("#charts canvas").count() == 4
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.reload()
    page.locator("#queue td").first.wait_for()
    assert monitor.process.poll() is None


def test_a_record_arrives_by_itself_and_a_killed_monitor_loses_and_repeats_none(page: Page, monitor: Monitor) -> None:
    last = seqs(page)[0]
    execute(monitor.home, commands.Pause())
    record(page, last + 1).wait_for()
    monitor.kill()
    page.get_by_text("no connection").wait_for()
    execute(monitor.home, commands.Resume())
    monitor.start()
    page.locator("#connection:empty").wait_for(state="attached", timeout=60_000)
    newest = last + 2
    record(page, newest).wait_for()
    shown = seqs(page)
    assert shown[:3] == [newest, newest - 1, last]
    assert len(shown) == len(set(shown))


def test_an_upload_is_checked_shown_as_text_and_queued(page: Page, monitor: Monitor) -> None:
    good = b'{"prompt": "one", "completion": "two"}\n{"prompt": "three", "completion": "four"}\n'
    page.set_input_files("#file", [{"name": EVIL, "mimeType": "text/plain", "buffer": good}])
    report = page.locator("#reports article")
    report.get_by_text("Queue it").click(timeout=120_000)
    page.locator("#queue").get_by_text(EVIL).wait_for()
    assert page.locator("img").count() == 0
    page.set_input_files("#file", [{"name": "bad.jsonl", "mimeType": "text/plain", "buffer": b"{broken\n"}])
    page.get_by_text("bad.jsonl: refused").wait_for(timeout=120_000)
    assert not list(monitor.home.inbox.glob("*.jsonl"))


def test_a_job_is_skipped_after_a_question(page: Page, monitor: Monitor) -> None:
    page.get_by_title("Skip: in-progress.jsonl").click()
    page.locator("dialog").get_by_text("Cancel").click()
    assert "in-progress.jsonl" in page.locator("#queue").inner_text()
    page.get_by_title("Skip: in-progress.jsonl").click()
    page.locator("dialog").get_by_text("Do it").click()
    page.locator("#journal").get_by_text("job_skipped").or_(
        page.locator("#journal").get_by_text("job_skip_requested")
    ).first.wait_for()


def test_the_machine_over_time_has_charts_with_tables(page: Page, monitor: Monitor) -> None:
    memory = MemoryView(total_bytes=8 * 10**9, available_bytes=4 * 10**9, worker_bytes=10**9)
    for number in range(30):
        view = MachineView(
            at=1.79e9 + 10 * number,
            cores=2,
            cpu=number / 30,
            memory=memory,
            disk_free_bytes=10**11,
            read_bytes_per_s=1e6,
            written_bytes_per_s=2e6,
        )
        append_sample(monitor.home.machine_samples, sample_of(view))
    page.reload()
    charts = page.locator("#machine-charts figure")
    charts.nth(3).wait_for()
    assert charts.count() == 4, "there is no GPU"
    charts.first.locator("summary").click()
    assert charts.first.locator(".data tbody tr").count() == 30
    assert "the last 5 min" in page.locator("#machine-note").inner_text()
    assert "% of a core" in page.locator("#own-cost").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_restore_says_what_will_happen_and_can_be_cancelled(page: Page, monitor: Monitor) -> None:
    settle(monitor.home)
    page.get_by_title("Restore: v001").click()
    question = page.locator("#question")
    question.get_by_text("Training will continue from v001.").wait_for()
    assert "is kept and can be restored" in question.inner_text()
    page.locator("dialog").get_by_text("Cancel").click()
    assert page.locator("#models").get_by_text("v001 (head)").count() == 0
    page.get_by_title("Restore: v001").click()
    page.locator("dialog").get_by_text("Do it").click()
    page.locator("#models").get_by_text("v001 (head)").wait_for()
    page.get_by_text("Roll back", exact=True).click()
    question.get_by_text("Training will continue from the origin.").wait_for()
    page.locator("dialog").get_by_text("Do it").click()
    page.locator("#roll-back:disabled").wait_for()


def test_two_versions_are_compared(page: Page) -> None:
    page.locator("#compare-from").select_option("origin")
    page.locator("#compare-to").select_option("v002")
    page.get_by_text("Show what differs").click()
    page.locator("#difference td").first.wait_for()
    assert "v002" in page.locator("#difference").inner_text()


def test_the_matrix_says_in_words_what_its_colors_show_and_flips_have_both_answers(page: Page) -> None:
    """The server's answers are replaced: the home was made before there were evaluations. Names are text."""
    done = VersionEvaluated(attempt=5, **EVALUATED, worse="it forgot")
    shown = {**plain(chart(replace(THREE[0], name=EVIL), *THREE[1:], done)), "verdicts": {"v002": "worse", "v001": ""}}
    flip = {"id": "q", "suite": "s", "prompt": "2 + 2?", "expected": "4", "before": "5", "after": EVIL, "right": False}
    differs = {"only": [], "settings": [], "questions": {"questions": [flip], "asked": 3, "problem": ""}}
    page.route("**/api/evaluation", lambda route: route.fulfill(json=shown))
    page.route("**/api/difference*", lambda route: route.fulfill(json=differs))
    page.reload()
    page.locator("#matrix tbody tr").first.wait_for()
    cells = page.locator("#matrix tbody tr").nth(2).locator("th, td").all_inner_texts()
    assert cells == ["c" * 12, "1.500 (+0.500)", "1.500 (−0.500)", "0.500"]
    tones = [page.locator("#matrix tbody tr").nth(2).locator("td").nth(n).get_attribute("data-tone") for n in range(3)]
    assert tones == ["worse", "better", None]
    assert page.locator("#matrix thead").inner_text().split()[1:3] == EVIL.split()[:2]
    row = page.locator("#verdicts tbody tr", has_text="v002")
    assert "4 of 10 (before: 9)" in row.inner_text()
    assert "it forgot" in row.inner_text()
    row.get_by_role("button").click()
    page.get_by_text("1 of 3 questions flipped from v001 to v002.").wait_for()
    assert page.locator("#flips tbody td").all_inner_texts() == ["2 + 2?", "4", "✓ 5", f"✗ {EVIL}"]
    assert page.locator("img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_move_that_is_not_possible_says_why(page: Page) -> None:
    page.get_by_text("Roll back", exact=True).click()
    page.locator("#said").get_by_text("an attempt is running").wait_for()
    assert not page.locator("dialog").is_visible()
