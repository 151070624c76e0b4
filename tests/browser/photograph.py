"""Photographs every screen of a real service with real jobs into docs/screenshots: light, dark, and
as wide as a phone.

    python -m tests.browser.photograph

It takes about three minutes: jobs are trained, one of them loses its trainer half way, one is
paused, one fails by its data.
"""

import io
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from app.web.text import model_page, playground
from app.webhooks.events import EVENT_TYPES
from tests.browser.visit import CHROMIUMS, Visits
from tests.support.backend import ROOT
from tests.support.receiver import Receiver, receiving
from tests.support.service import KEY, Service
from tests.support.waiting import wait_for

FOLDER = ROOT / "docs" / "screenshots"
WIDE = {"width": 1360, "height": 900}
PHONE = {"width": 390, "height": 844}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": WIDE, "color_scheme": "light"},
    "dark": {"viewport": WIDE, "color_scheme": "dark"},
    "phone": {
        "viewport": PHONE,
        "color_scheme": "light",
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
MAX_HEIGHT = {"light": 2600, "dark": 2600, "phone": 2400}  # of a picture, in the page's pixels
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
    service = Service(folder / "service", ENVIRONMENT, fake=False)
    try:
        service.wait_until_up()
        FOLDER.mkdir(exist_ok=True)
        with sync_playwright() as playwright, receiving() as receiver:
            path = next(filter(None, map(shutil.which, CHROMIUMS)))
            browser = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            photograph(browser, service, {"sign-in": "/sign-in", "first-job": "/"})
            photograph(browser, service, screens(service, receiver))
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
    receiver.answers[0] = 500
    jobs.cancel(submit(service, file, "mistaken"))
    running = submit(service, file, "support-desk-long", epochs=50)
    submit(service, file, "router")
    wait_for(lambda: step(service, running) > 50, SECONDS)
    return {
        "jobs": "/",
        "running-job": f"/jobs/{running}",
        "job": f"/jobs/{lost}",
        "compare": f"/compare?job={lost}&job={second}",
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


def exported(service: Service, job_id: str, format: str) -> str:
    """The model of the job, once it is there in that form too."""
    model = service.client.fine_tuning.jobs.retrieve(job_id).fine_tuned_model
    assert model is not None
    service.client.post(f"/models/{model}/exports", body={"format": format}, cast_to=object)
    wait_for(
        lambda: f"{model}:{format}" in [entry.id for entry in service.client.models.list()], SECONDS
    )
    return model


def photograph(browser: Browser, service: Service, paths: dict[str, str]) -> None:
    for look, options in LOOKS.items():
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
            height = min(page.evaluate("document.documentElement.scrollHeight"), MAX_HEIGHT[look])
            width = options["viewport"]["width"]
            picture = page.screenshot(
                full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height}
            )
            save(picture, FOLDER / f"{name}-{look}.png")
        visits.close()
        assert visits.faults == []


def save(picture: bytes, path: Path) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    counted: list[tuple[int, tuple[int, int, int]]] = sorted(
        image.getcolors(image.width * image.height) or [], reverse=True
    )
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for _, color in counted[:COLORS] for channel in color])
    image.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB\n")


if __name__ == "__main__":
    main()
