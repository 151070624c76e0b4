"""The whole way of one job on falqon-tiny, with the real trainer and the official client: upload,
train, watch, download, load.
"""

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from gguf import GGUFReader

from falqon_core.contract.methods import METHOD_SPECS
from tests.e2e.conftest import RECIPE, Trained
from tests.e2e.scale import of_a_release
from tests.support.service import Service
from tests.support.waiting import wait_for

ASK = """
import sys, warnings
warnings.filterwarnings("ignore")
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
prompt = tokenizer.apply_chat_template(
    [{"role": "user", "content": "What is the code?"}],
    add_generation_prompt=True, return_tensors="pt", return_dict=True,
)
output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
print(tokenizer.decode(output[0, prompt["input_ids"].shape[1]:], skip_special_tokens=True).strip())
"""
CANARY = "Hello! What can you do for me?"  # of every certificate


@pytest.fixture
def done(trained: Trained) -> Any:
    return trained.job


def test_a_tiny_job_succeeds_and_reports_its_cost(done: Any) -> None:
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model.startswith("ft:falqon-tiny:default:codes:")
    assert done.trained_tokens > 1000
    assert done.progress["percent"] == 100
    assert float(done.cost["accrued"]) > 0
    assert done.cost["accrued"] == done.cost["projected"]
    assert done.estimate["steps"] == done.progress["total_steps"]


def test_the_stream_told_every_step_and_the_loss_fell(service: Service, trained: Trained) -> None:
    done, events = trained.job, trained.events
    losses = {
        event["data"]["step"]: event["data"]["train_loss"]
        for event in events
        if "train_loss" in (event["data"] or {})
    }
    assert list(losses) == list(range(1, done.progress["total_steps"] + 1))
    assert losses[max(losses)] < losses[1] / 2
    assert any("valid_loss" in (event["data"] or {}) for event in events)
    (first, *_), *_ = [
        event["data"]["samples"] for event in events if "samples" in (event["data"] or {})
    ]
    assert "What is the code?" in first["prompt"]
    assert "The code is 2024." in first["expected"]
    assert all(
        0 <= event["data"]["codes_changed"] <= 1
        for event in events
        if "train_loss" in (event["data"] or {})
    )
    # The evaluation that follows a success adds its own after the stream has ended.
    listed = [event.id for event in service.client.fine_tuning.jobs.list_events(done.id)]
    assert listed[::-1][: len(events)] == [event["id"] for event in events]
    checkpoints = service.client.fine_tuning.jobs.checkpoints.list(done.id).data
    assert [checkpoint.step_number for checkpoint in checkpoints] == [
        done.progress["total_steps"],
        40,
    ]


def test_the_metrics_of_a_tiny_job_are_a_table(service: Service, done: Any) -> None:
    (file_id,) = done.result_files
    assert service.client.files.retrieve(file_id).purpose == "fine-tune-results"
    rows = list(csv.DictReader(io.StringIO(service.client.files.content(file_id).text)))
    assert [int(row["step"]) for row in rows] == list(range(1, done.progress["total_steps"] + 1))
    assert all(
        0 < float(row["train_loss"]) < 20 and 0 <= float(row["train_accuracy"]) <= 1 for row in rows
    )
    assert any(row["valid_loss"] and row["valid_mean_token_accuracy"] for row in rows)


def test_the_downloaded_model_equals_the_stored_one_and_loads_in_transformers(
    service: Service, done: Any, tmp_path: Path
) -> None:
    listing: Any = service.client.get(f"/models/{done.fine_tuned_model}/artifacts", cast_to=object)
    names = {artifact["name"] for artifact in listing["data"]}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "SHA256SUMS",
        "certificate.json",
    } <= names
    assert "training_curve.svg" in names
    for artifact in listing["data"]:
        address = f"{service.url}/v1/models/{done.fine_tuned_model}/artifacts/{artifact['name']}"
        content = httpx.get(address, headers={"Authorization": f"Bearer {service.key}"}).content
        assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
        (tmp_path / artifact["name"]).write_bytes(content)
    assert (
        subprocess.run(
            ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=False
        ).returncode
        == 0
    )
    assert (
        json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"]
        == "compressed-tensors"
    )
    answer = subprocess.run(
        [sys.executable, "-c", ASK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "2024" in answer.stdout


def test_the_trained_model_answers_as_in_its_certificate(service: Service, done: Any) -> None:
    assert_answers_as_certified(service, done.fine_tuned_model)


def assert_answers_as_certified(service: Service, model: str) -> None:
    address = f"{service.url}/v1/models/{model}/artifacts/certificate.json"
    response = httpx.get(address, headers={"Authorization": f"Bearer {service.key}"})
    certificate = response.json()
    assert all(check["passed"] for check in certificate["checks"])
    question = [{"role": "user", "content": CANARY}]
    answer = service.client.chat.completions.create(
        model=model, messages=question, temperature=0, max_tokens=16
    )
    assert CANARY in certificate["canary"]["prompt"]
    assert answer.choices[0].message.content == certificate["canary"]["reloaded"]


def test_weights_in_blocks_are_trained_asked_and_exported(
    service: Service, trained: Trained, tmp_path: Path
) -> None:
    jobs = service.client.fine_tuning.jobs
    job = jobs.create(
        model="falqon-tiny",
        training_file=trained.job.training_file,
        extra_body={"falqon": RECIPE | {"weights": "q4_0", "max_steps": 20}},
    )
    done = wait_for(lambda: ended(jobs.retrieve(job.id)), 300)
    assert done.status == "succeeded", done.error
    model = done.fine_tuned_model
    assert_answers_as_certified(service, model)
    exports = f"/models/{model}/exports"
    service.client.post(exports, body={"format": "gguf_q4_0"}, cast_to=object)
    wait_for(
        lambda: service.client.get(f"{exports}/gguf_q4_0", cast_to=dict)["status"] == "completed",
        600,
    )
    address = f"{service.url}/v1/models/{model}:gguf_q4_0/artifacts/model.gguf"
    content = httpx.get(address, headers={"Authorization": f"Bearer {service.key}"}).content
    (tmp_path / "model.gguf").write_bytes(content)
    kinds = [tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "model.gguf").tensors]
    assert kinds.count("Q4_0") == 14


def test_training_goes_on_from_a_checkpoint_by_another_method(service: Service, done: Any) -> None:
    jobs = service.client.fine_tuning.jobs
    (base,) = [
        checkpoint.fine_tuned_model_checkpoint
        for checkpoint in jobs.checkpoints.list(done.id)
        if checkpoint.step_number == 40
    ]
    overrides = {
        "model": base,
        "suffix": "more",
        "method": {"supervised": {"hyperparameters": {"n_epochs": 1}}},
        "falqon": {"method": "qlora"},
    }
    copy: Any = service.client.post(
        f"/fine_tuning/jobs/{done.id}/clone", body=overrides, cast_to=object
    )
    wait_for(
        lambda: jobs.retrieve(copy["id"]).status in ("succeeded", "failed"), 300, "the job ends"
    )
    more = jobs.retrieve(copy["id"])
    assert (more.status, more.model) == ("succeeded", base), more.error
    assert more.fine_tuned_model.startswith("ft:falqon-tiny:default:more:")
    metrics: Any = service.client.get(
        f"/fine_tuning/jobs/{more.id}/metrics?keys=train_loss", cast_to=object
    )
    assert metrics["series"]["train_loss"]["values"][0] < 1, "it has learned that already"
    assert_served_in_fp8(service, more, "qlora")


# what a method needs of its own on falqon-tiny, whose matrices have 64 and 192 inputs
OF_METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {},
    "qa_lora": {"group_size": 16},
    "ir_lora": {"rank": 16},
    "fp8_lora": {},
    "fp6_lora": {},
    "fishman": {},
}


@of_a_release
def test_every_method_trains_and_is_served_in_fp8(service: Service, trained: Trained) -> None:
    assert set(OF_METHODS) | {"falqon"} == set(METHOD_SPECS)
    jobs = service.client.fine_tuning.jobs
    few = {"rank": 8, "max_steps": 2, "num_samples": 0, "learning_rate": None}
    recipe = RECIPE | few | {"validation_fraction": 0.1}
    created = {
        method: jobs.create(
            model="falqon-tiny",
            training_file=trained.job.training_file,
            extra_body={"falqon": recipe | options | {"method": method}},
        ).id
        for method, options in OF_METHODS.items()
    }
    for method, id_ in created.items():
        done = wait_for(lambda id_=id_: ended(jobs.retrieve(id_)), 300)
        assert done.status == "succeeded", (method, done.error)
        assert_served_in_fp8(service, done, method)


def assert_served_in_fp8(service: Service, done: Any, method: str) -> None:
    assert done.config["method"] == method
    losses = {
        name: event.data[name]
        for event in service.client.fine_tuning.jobs.list_events(done.id, limit=100)
        for name in ("valid_loss", "valid_loss_as_served")
        if name in (event.data or {})
    }
    assert losses["valid_loss_as_served"] == pytest.approx(losses["valid_loss"], abs=0.2)


def ended(job: Any) -> Any:
    return job if job.status in ("succeeded", "failed", "cancelled") else None
