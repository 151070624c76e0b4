"""Films the journey of one job through the pages of a real service, with the smallest model:
upload, estimate, curve, a killed trainer, its successor, an answer.

    python -m tests.browser.tour [FILE]

Without a FILE it writes docs/screenshots/tour.gif. Every figure in the picture is that of the job
that runs meanwhile; it takes a few minutes.
"""

import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from playwright.sync_api import Page, expect, sync_playwright

from app.web.text import playground
from tests.browser.job_page import drawn, status, until
from tests.browser.visit import CHROMIUMS, SECONDS, Visits
from tests.support.backend import ROOT
from tests.support.service import KEY, Service
from tests.support.waiting import wait_for

PICTURE = ROOT / "docs" / "screenshots" / "tour.gif"
MODEL = "falqon-tiny"
QUESTION = "For how many years do you guarantee your lamps?"
WIDTH, HEIGHT, CAPTION_HEIGHT = 1100, 700, 52
SETTINGS = {
    "suffix": "support-desk",
    "n_epochs": "6",
    "batch_size": "4",
    "rank": "32",
    "learning_rate": "0.005",
    "seed": "1",
    "checkpoint_every": "20",
    "eval_every": "20",
    "validation_fraction": "0.1",
    "max_seq_length": "128",
}
STEPS_SHOWN = (30, 90)
STEP_KILLED = 130
LONG = 1800 * SECONDS
COLORS = 64
MILLISECONDS = 2600
ENVIRONMENT = {"FALQON_HEARTBEAT": "PT1S", "FALQON_POLL": "PT0.5S", "OMP_NUM_THREADS": "2"}


@dataclass
class Film:
    """The frames so far, each with a caption below it and the milliseconds that it stands."""

    page: Page
    frames: list[Image.Image] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)

    def shoot(self, caption: str, milliseconds: int = MILLISECONDS) -> None:
        self.page.wait_for_timeout(600)  # for transitions of the page
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        frame = Image.new("RGB", (WIDTH, HEIGHT + CAPTION_HEIGHT), "#12263f")
        frame.paste(picture, (0, 0))
        ImageDraw.Draw(frame).text(
            (WIDTH // 2, HEIGHT + CAPTION_HEIGHT // 2),
            caption,
            fill="white",
            font=ImageFont.load_default(size=21),
            anchor="mm",
        )
        self.frames.append(frame)
        self.durations.append(milliseconds)

    def save(self, path: Path) -> None:
        # One palette for all frames, or colours would flicker.
        strip = Image.new("RGB", (WIDTH, sum(frame.height for frame in self.frames)))
        for index, frame in enumerate(self.frames):
            strip.paste(frame, (0, index * frame.height))
        palette = strip.quantize(COLORS, dither=Image.Dither.NONE)
        first, *others = (
            frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in self.frames
        )
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=self.durations,
            loop=0,
            optimize=True,
        )
        sys.stdout.write(f"{path}: {len(self.frames)} frames, {path.stat().st_size // 1024} KiB\n")


def main() -> None:
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    folder = Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp"))
    service = Service(folder / "service", ENVIRONMENT, fake=False)
    try:
        service.wait_until_up()
        with window(service) as page:
            film = Film(page)
            job_id = submit(film)
            watch(film, service, job_id)
            ask(film, model_of(service, job_id))
            film.save(picture)
    finally:
        service.stop()
        service.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def window(service: Service) -> Iterator[Page]:
    path = next(filter(None, map(shutil.which, CHROMIUMS)))
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=as_root)
        visits = Visits(browser)
        yield visits.sign_in(service.url, KEY, viewport={"width": WIDTH, "height": HEIGHT})
        visits.close()
        assert visits.faults == []


def submit(film: Film) -> str:
    """Fill in the form as a user does, and return the id of the job."""
    page = film.page
    page.goto("/jobs/new")
    page.get_by_label("Model", exact=True).select_option(MODEL)
    page.set_input_files("#file", ROOT / "demo" / "support_desk.jsonl")
    expect(page.locator("#report")).to_contain_text("162 records", timeout=LONG)
    first_record = page.locator("#report .tokens").first
    expect(first_record.locator("mark").first).to_be_visible(timeout=LONG)
    first_record.evaluate("element => element.scrollIntoView({block: 'center'})")
    film.shoot("Upload a file: every line is checked, and what is learned is marked")
    page.evaluate(
        "document.querySelectorAll('details:not([data-drop] *)').forEach(each => each.open = true)"
    )
    for name, value in SETTINGS.items():
        page.locator(f"#{name}").fill(value)
    for words in (f"{SETTINGS['n_epochs']} epochs of 146 records", "counted", "0.005"):
        expect(page.locator("#plan")).to_contain_text(words, timeout=LONG)
    page.evaluate("window.scrollTo(0, 0)")
    film.shoot("Time, cost and memory are known before anything starts", 3200)
    page.get_by_role("button", name="Submit the job").click()
    expect(page.locator("#job-title")).to_contain_text("support-desk")
    return page.url.rpartition("/")[2]


def watch(film: Film, service: Service, job_id: str) -> None:
    page = film.page
    page.wait_for_selector(".uplot", timeout=LONG)
    page.evaluate("document.querySelector('.charts').scrollIntoView()")
    for step in STEPS_SHOWN:
        reach(page, step)
        film.shoot("The loss, live", 1500)
    reach(page, STEP_KILLED)
    pid = service.pids("falqon_core", "train", "--message-fd", job_id)[0]
    film.shoot(f"$ kill -9 {pid}      # the trainer, in the middle of a step")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(attempts(service, job_id)) > 1, 600, "another attempt begins")
    reach(page, STEP_KILLED + 30)
    film.shoot("Another attempt goes on from the newest checkpoint", 3200)
    expect(status(page)).to_have_text("succeeded", timeout=LONG)
    page.evaluate("window.scrollTo(0, 0)")
    film.shoot("Done: the cost that it came to, beside the estimate", 3200)


def reach(page: Page, step: int) -> None:
    while drawn(page) < step:
        until_or_later(page, step)


def until_or_later(page: Page, step: int) -> None:
    try:
        until(page, lambda: drawn(page) >= step, f"step {step}")
    except AssertionError:
        assert status(page).text_content() not in ("failed", "cancelled")


def model_of(service: Service, job_id: str) -> str:
    model = service.client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    assert model is not None
    return model


def attempts(service: Service, job_id: str) -> list[object]:
    job = service.client.fine_tuning.jobs.retrieve(job_id)
    return list(getattr(job, "attempts", None) or [])


def ask(film: Film, model: str) -> None:
    """Ask the model and its base, which stands beside it."""
    page = film.page
    page.goto(playground(model))
    page.get_by_label("Max tokens").fill("40")
    page.get_by_label("Message").fill(QUESTION)
    page.get_by_label("Message").press("Control+Enter")
    expect(page.locator("#announcement")).to_contain_text("Answered", timeout=LONG)
    page.locator("#turns").evaluate("element => element.scrollIntoView({block: 'center'})")
    film.shoot("Ask it, beside its base: the same address, the same client", 6000)


if __name__ == "__main__":
    main()
