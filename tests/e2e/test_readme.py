"""The commands of README.md and docs/, as they stand there, against a running service: what loads
torch once more for each, in a release.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.scale import of_a_release
from tests.support import hub
from tests.support.backend import ROOT
from tests.support.service import Service, free_port
from tests.support.waiting import wait_for

DEMO_MODEL = "smollm2-135m-instruct"
PAGES = "\n".join(
    path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
)


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```", PAGES, re.M | re.S)
    (code,) = [text for text in blocks if containing in text]
    return code


def here(service: Service, text: str) -> str:
    """Return the text for this service, with the smallest model in the place of the demo's."""
    return text.replace("http://127.0.0.1:8000", service.url).replace(DEMO_MODEL, "falqon-tiny")


def run(service: Service, folder: Path, command: list[str], **variables: str) -> str:
    environment = os.environ | {"FALQON_API_KEY": service.key} | variables
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def serving(command: str, log: Path, path: str) -> Iterator[None]:
    with log.open("wb") as output:
        environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=log.parent,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def test_the_commands_of_a_checkout_exist() -> None:
    targets = re.findall(r"^make (\w+)", block("sh", "make demo"), re.M)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.fixture(scope="module")
def readmes_job(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The job of the README's code, which has run from upload to two answers."""
    checkout = tmp_path_factory.mktemp("checkout")
    (checkout / "demo").symlink_to(ROOT / "demo")
    code = here(service, block("python", 'OpenAI(base_url="'))
    printed = run(service, checkout, [sys.executable, "-W", "ignore", "-c", code])
    job = next(iter(service.client.fine_tuning.jobs.list()))
    before, after = ("falqon-tiny: ", f"{job.fine_tuned_model}: ")
    assert printed.startswith(before)
    assert f"\n{after}" in printed
    return job


def of_terminal(service: Service) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"FALQON_BASE_URL": service.url, "PATH": path}


def test_a_job_is_estimated_watched_and_downloaded(
    service: Service, readmes_job: Any, tmp_path: Path
) -> None:
    def run_here(containing: str, more: str = "", **variables: str) -> str:
        commands = here(service, block("sh", containing)) + more
        return run(service, tmp_path, ["bash", "-ec", commands], **variables)

    model = readmes_job.fine_tuned_model
    assert '"steps"' in run_here("/estimates", FILE=readmes_job.training_file)
    assert run_here("/stream", JOB=readmes_job.id).rstrip().endswith("data: [DONE]")
    assert "model.safetensors: OK" in run_here("SHA256SUMS", MODEL=model)
    assert json.loads(run_here("LINK=", "cat config.json", MODEL=model))["model_type"] == "llama"
    environment = {
        "HUB_ID": service.client.models.retrieve(model).hub_id,
        "HF_HOME": str(tmp_path / "hf"),
    }  # type: ignore[attr-defined]
    assert "snapshots" in run(
        service,
        tmp_path,
        [sys.executable, "-W", "ignore", "-c", here(service, block("python", "HF_ENDPOINT"))],
        **environment,
    )


def test_a_model_is_published(service: Service, readmes_job: Any, tmp_path: Path) -> None:
    with hub.serving() as there:
        run(
            service,
            tmp_path,
            ["bash", "-ec", block("sh", "falqon publish")],
            MODEL=readmes_job.fine_tuned_model,
            **of_terminal(service),
            **there.environment(str(tmp_path / "hf")),
        )
    (published,) = there.repositories.values()
    certified = json.loads(published.files["certificate.json"])["files"]
    assert {file["name"]: file["sha256"] for file in certified}.items() <= {
        name: hashlib.sha256(content).hexdigest() for name, content in published.files.items()
    }.items()
    # The evaluation that follows the job adds its own page once it is done.
    assert published.files.keys() - {"EVALUATION.md"} == {file["name"] for file in certified} | {
        "certificate.json",
        "SHA256SUMS",
    }


@of_a_release
def test_a_model_is_loaded_and_served(service: Service, readmes_job: Any, tmp_path: Path) -> None:
    download, load, serve = block("sh", "transformers serve").splitlines()
    where = of_terminal(service)
    commands = ["bash", "-ec", f"{download}\n{load}"]
    printed = run(service, tmp_path, commands, MODEL=readmes_job.fine_tuned_model, **where)
    assert "LlamaForCausalLM" in printed
    with serving(
        serve.replace("8001", str(port := free_port())), tmp_path / "serve.log", where["PATH"]
    ):
        question = {
            "model": "model",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 4,
        }
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), what="the model is served")
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/chat/completions", json=question, timeout=60
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["role"] == "assistant"


@of_a_release
def test_a_model_is_exported_in_other_formats(
    service: Service, readmes_job: Any, tmp_path: Path
) -> None:
    model = readmes_job.fine_tuned_model
    step = str(service.client.fine_tuning.jobs.checkpoints.list(readmes_job.id).data[0].step_number)
    commands = ["bash", "-ec", block("sh", "falqon models export")]
    run(service, tmp_path, commands, MODEL=model, STEP=step, **of_terminal(service))
    assert service.client.models.retrieve(f"{model}:ckpt-step-{step}").id.endswith(step)
    assert (tmp_path / "gguf" / "model.gguf").stat().st_size > 0
    adapted = run(service, tmp_path, [sys.executable, "-c", block("python", "PeftModel")])
    assert adapted.startswith("Hello")


def run_with_client(service: Service, folder: Path, code: str) -> str:
    client, _, _ = here(service, block("python", 'OpenAI(base_url="')).partition("file = ")
    return run(service, folder, [sys.executable, "-c", client + code])


def test_a_base_model_answers_as_it_writes(service: Service, tmp_path: Path) -> None:
    assert run_with_client(service, tmp_path, block("python", "stream=True"))


def test_a_webhook_endpoint_shows_its_secret(service: Service, tmp_path: Path) -> None:
    before = {endpoint.id for endpoint in service.client.webhooks.list()}
    printed = run_with_client(service, tmp_path, block("python", "webhooks.create("))
    assert printed.startswith("whsec_")
    after = [endpoint for endpoint in service.client.webhooks.list() if endpoint.id not in before]
    assert [endpoint.name for endpoint in after] == ["ours"]


def test_a_fine_tune_is_asked_as_an_adapter_on_its_base(
    service: Service, readmes_job: Any, tmp_path: Path
) -> None:
    model = readmes_job.fine_tuned_model
    code = f"model = {model!r}\n{block('python', 'gguf_lora')}"
    printed = run_with_client(service, tmp_path, code)
    assert "same_tokens" in printed
    assert f"model='{model}:gguf_lora'" in printed
