"""Photographs every screen of a real service with 500 jobs at three sizes, light and dark, into a
folder, and the pictures that the documents show into docs/screenshots.

    python -m tests.browser.photograph [FOLDER]

It takes about five minutes: jobs are trained, one of them loses its trainer half way, one is
paused, one fails by its data. Those before them are copies of theirs.
"""

import io
import itertools
import os
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import insert, select

from app.base.database import Database
from app.base.ids import first_id
from app.models import DEFAULT_PROJECT_ID
from app.models.base import Base
from app.web.text import model_page, playground
from app.webhooks.events import EVENT_TYPES
from tests.browser.visit import CHROMIUMS, Visits
from tests.support.backend import ROOT
from tests.support.receiver import Receiver, receiving
from tests.support.service import KEY, Service
from tests.support.waiting import wait_for

SCREENSHOTS = ROOT / "docs" / "screenshots"
# in the documents
DOCUMENTED = {"jobs-desktop-light", "job-desktop-light", "new-job-desktop-light"}
TOUCHED = {"is_mobile": True, "has_touch": True}
SIZES: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1360, "height": 900}},
    "tablet": {"viewport": {"width": 820, "height": 1180}} | TOUCHED,
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2} | TOUCHED,
}
SCHEMES = ("light", "dark")
MAX_HEIGHT = 2600  # of a picture, in the page's pixels
NUM_JOBS = 500
TABLE = Base.metadata.tables["jobs"]
DAYS = 60  # over which the earlier jobs came
COLORS = 256  # the most frequent ones; flat screens need no more, and stay small
RECIPE = {
    "learning_rate": 0.01,
    "checkpoint_every": 20,
    "eval_every": 20,
    "validation_fraction": 0.1,
    "max_seq_length": 128,
}
SECONDS = 300  # at most, for one job
ENVIRONMENT = {
    "FALQON_HEARTBEAT": "PT0.3S",
    "FALQON_POLL": "PT0.5S",
    "FALQON_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
    "OMP_NUM_THREADS": "2",
}


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fq-", dir="/tmp"))
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "pictures"
    pictures.mkdir(exist_ok=True)
    service = Service(folder / "service", ENVIRONMENT, fake=False)
    try:
        service.wait_until_up()
        with sync_playwright() as playwright, receiving() as receiver:
            path = next(filter(None, map(shutil.which, CHROMIUMS)))
            browser = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            photograph(browser, service, {"sign-in": "/sign-in", "first-job": "/"}, pictures)
            photograph(browser, service, screens(service, receiver), pictures)
    finally:
        service.stop()
        service.close()
        shutil.rmtree(folder, ignore_errors=True)


def screens(service: Service, receiver: Receiver) -> dict[str, str]:
    jobs = service.client.fine_tuning.jobs
    webhook = service.client.webhooks.create(
        name="ours", url=receiver.url, event_types=list(EVENT_TYPES)
    ).id
    with (ROOT / "demo" / "support_desk.jsonl").open("rb") as data:
        file = service.client.files.create(file=data, purpose="fine-tune").id
    lost = submit(service, file, "support-desk", epochs=3, rank=32)
    wait_for(lambda: step(service, lost) > 35, SECONDS)
    os.kill(service.pids("falqon_core", "train")[0], signal.SIGKILL)
    second = submit(service, file, "support-desk-r8", epochs=3, rank=8)
    paused = submit(service, file, "tone", epochs=30)
    end(service, lost)
    end(service, second)
    wait_for(lambda: step(service, paused) > 30, SECONDS)
    jobs.pause(paused)
    wait_for(lambda: jobs.retrieve(paused).status == "paused", SECONDS)
    # Long enough for the job to be there before its last line is found to be bad.
    notes = ("notes.jsonl", b'{"text": "fine"}\n' * 200_000 + b'{"text": 7}\n')
    submit(service, service.client.files.create(file=notes, purpose="fine-tune").id, "notes")
    wait_for(lambda: inspected(service, file), SECONDS)
    model = exported(service, lost, "bf16")
    study = compared(service, file)
    receiver.answers[0] = 500
    jobs.cancel(submit(service, file, "mistaken"))
    add_earlier_jobs(service)
    running = submit(service, file, "support-desk-long", epochs=50)
    submit(service, file, "router")
    wait_for(lambda: step(service, running) > 50, SECONDS)
    return {
        "jobs": "/",
        "running-job": f"/jobs/{running}",
        "job": f"/jobs/{lost}",
        "compare": f"/compare?job={lost}&job={second}",
        "studies": "/studies",
        "study": f"/studies/{study}",
        "workers": "/workers",
        "usage": "/usage",
        "activity": "/activity",
        "search": "/search?q=support",
        "new-job": f"/jobs/new?training_file={file}&model=falqon-tiny",
        "data": "/data",
        "file": f"/data/{file}?model=falqon-tiny",
        "models": "/models",
        "model": model_page(model),
        "playground": playground(model),
        "settings": "/settings",
        "keys": "/settings/keys",
        "prices": "/settings/prices",
        "project": f"/settings/projects/{DEFAULT_PROJECT_ID}",
        "webhook": f"/settings/webhooks/{webhook}",
    }


def submit(service: Service, file: str, suffix: str, epochs: int = 10, **recipe: Any) -> str:
    return service.client.fine_tuning.jobs.create(
        model="falqon-tiny",
        training_file=file,
        suffix=suffix,
        seed=1,
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 4}},
        },
        extra_body={"falqon": RECIPE | recipe},
    ).id


def step(service: Service, job_id: str) -> int:
    job: Any = service.client.fine_tuning.jobs.retrieve(job_id)
    return int((job.progress or {}).get("step", 0))


def inspected(service: Service, file: str) -> bool:
    report: Any = service.client.get(f"/files/{file}/report?model=falqon-tiny", cast_to=object)
    return bool(report["inspections"][0]["status"] == "completed")


def end(service: Service, job_id: str) -> None:
    wait_for(lambda: service.client.fine_tuning.jobs.retrieve(job_id).finished_at, SECONDS, job_id)
    assert service.client.fine_tuning.jobs.retrieve(job_id).status == "succeeded"


def compared(service: Service, file: str) -> str:
    """A study of two methods, when all of its jobs have ended."""
    request = {
        "model": "falqon-tiny",
        "training_file": file,
        "methods": ["falqon", "lora"],
        "falqon": RECIPE | {"max_steps": 60},
    }
    study: Any = service.client.post("/falqon/studies", body=request, cast_to=object)
    for job in study["jobs"]:
        end(service, job["id"])
    return str(study["id"])


def exported(service: Service, job_id: str, format: str) -> str:
    """The model of the job, once it is there in that form too."""
    model = service.client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    assert model is not None
    service.client.post(f"/models/{model}/exports", body={"format": format}, cast_to=object)
    wait_for(
        lambda: f"{model}:{format}" in [entry.id for entry in service.client.models.list()], SECONDS
    )
    return model


def add_earlier_jobs(service: Service) -> None:
    """Copy the jobs that have ended to earlier days, until there are `NUM_JOBS`."""
    database = Database(f"sqlite:///{service.folder / 'falqon.db'}")
    with database.transaction() as session:
        ended = session.execute(select(TABLE).where(TABLE.c.finished_at.is_not(None)))
        templates = [dict(row) for row in ended.mappings()]
        now = datetime.now(UTC)
        copies = []
        for number in range(1, NUM_JOBS):
            age = timedelta(days=DAYS) * number / NUM_JOBS
            copy = templates[number % len(templates)].copy()
            copy["id"] = first_id("ftjob-", now - age) + f"{number:020x}"
            copy |= {"last_event_seq": 0, "study_id": None}
            for column in ("created_at", "started_at", "finished_at"):
                if copy[column] is not None:
                    copy[column] -= age
            copies.append(copy)
        session.execute(insert(TABLE), copies)
    database.dispose()


def photograph(browser: Browser, service: Service, paths: dict[str, str], pictures: Path) -> None:
    for (size, options), scheme in itertools.product(SIZES.items(), SCHEMES):
        options = options | {"color_scheme": scheme}
        visits = Visits(browser)
        page = visits.page(base_url=service.url, **options) if "sign-in" in paths else None
        for name, path in paths.items():
            page = (
                page if name == "sign-in" and page else visits.sign_in(service.url, KEY, **options)
            )
            page.goto(path)
            if page.locator(".charts").count():
                page.wait_for_selector(".uplot")
            page.wait_for_timeout(1000)  # for what the stream brings first
            height = min(page.evaluate("document.documentElement.scrollHeight"), MAX_HEIGHT)
            width = options["viewport"]["width"]
            picture = page.screenshot(
                full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height}
            )
            title = f"{name}-{size}-{scheme}"
            save(picture, pictures / f"{title}.png")
            if title in DOCUMENTED:
                shutil.copy(pictures / f"{title}.png", SCREENSHOTS / f"{name}.png")
        visits.close()
        assert not visits.faults, visits.faults


def save(picture: bytes, path: Path) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    counted: list[tuple[int, tuple[int, int, int]]] = sorted(
        image.getcolors(image.width * image.height) or [], reverse=True
    )
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for _, color in counted[:COLORS] for channel in color])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path.name}: {path.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    main()
