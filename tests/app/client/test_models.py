import json
from collections.abc import Callable

from tests.app.client.conftest import Falqon
from tests.support.service import Service


def test_a_model_from_its_job_to_its_end(
    falqon: Falqon, service: Service, submitted: Callable[..., str]
) -> None:
    job_id = submitted("--suffix", "mine")
    assert falqon("jobs", "watch", job_id).exit_code == 0
    model = json.loads(falqon("jobs", "show", job_id, "--json").stdout)["fine_tuned_model"]
    (row,) = [
        line for line in falqon("models", "list").stdout.splitlines() if line.startswith(model)
    ]
    assert "falqon-tiny" in row
    output = falqon("models", "show", model).stdout
    for words in (job_id, "falqon-tiny", "model.safetensors", "config.json"):
        assert words in output
    assert (
        json.loads(falqon("models", "show", model, "--json").stdout)
        == service.client.models.retrieve(model).to_dict()
    )

    assert falqon("models", "pin", model).stdout == f"{model} is pinned.\n"
    assert falqon("models", "unpin", model).stdout == f"{model} is not pinned.\n"
    replicas = falqon("models", "replicas", model, "2").stdout
    assert replicas == f"up to 2 engines answer for {model}.\n"
    assert json.loads(falqon("models", "show", model, "--json").stdout)["replicas"] == 2
    assert falqon("models", "replicas", model, "17").exit_code == 1
    refused = falqon("models", "clean")
    assert (refused.exit_code, "At least one of" in refused.stderr) == (1, True)
    shown = falqon("models", "clean", "--search", model).stdout.splitlines()
    assert (shown[0], shown[1].startswith("1 (")) == (model, True)
    assert "would be deleted" in shown[1]
    assert falqon("models", "clean", "--search", model, "--unused-days", "5").stdout.startswith("0")
    done = json.loads(falqon("models", "clean", "--search", model, "--yes", "--json").stdout)
    assert (done["deleted"], done["kept"]) == ([model], [])
    gone = falqon("jobs", "clean", "--search", job_id, "--status", "succeeded", "--yes").stdout
    assert gone.startswith(job_id)
    assert falqon("jobs", "show", job_id).exit_code == 3


def test_a_model_is_deleted_by_name(falqon: Falqon, submitted: Callable[..., str]) -> None:
    job_id = submitted("--suffix", "mine")
    assert falqon("jobs", "watch", job_id).exit_code == 0
    model = json.loads(falqon("jobs", "show", job_id, "--json").stdout)["fine_tuned_model"]
    assert falqon("models", "delete", model).stdout == f"{model} is deleted.\n"
    assert falqon("models", "show", model).exit_code == 3
    assert falqon("download", model).exit_code == 3
    assert model not in falqon("models", "list").stdout


def test_a_model_in_another_format(falqon: Falqon, submitted: Callable[..., str]) -> None:
    job_id = submitted("--suffix", "mine")
    assert falqon("jobs", "watch", job_id).exit_code == 0
    model = json.loads(falqon("jobs", "show", job_id, "--json").stdout)["fine_tuned_model"]
    assert (
        "is in progress"
        in falqon("models", "export", model, "--format", "bf16", "--no-wait").stdout
    )
    assert falqon("models", "export", model, "--format", "bf16").stdout.startswith(
        f"{model}:bf16 is there; `falqon download"
    )
    again = json.loads(falqon("models", "export", model, "--format", "bf16", "--json").stdout)
    assert (again["status"], again["exported_model"]) == ("completed", f"{model}:bf16")
    assert falqon("download", again["exported_model"]).exit_code == 0
    refused = falqon("models", "export", model, "--format", "gguf")  # there is none of a fake
    assert (refused.exit_code, "no GGUF" in refused.stderr) == (1, True)


def test_a_model_is_served_in_one_of_two_ways(
    falqon: Falqon, submitted: Callable[..., str]
) -> None:
    job_id = submitted("--suffix", "mine")
    assert falqon("jobs", "watch", job_id).exit_code == 0
    model = json.loads(falqon("jobs", "show", job_id, "--json").stdout)["fine_tuned_model"]
    assert falqon("models", "serve", model, "--as", "merged").stdout == f"{model} answers merged.\n"
    shared = f"{model} answers shared, as {model}:gguf_lora (loss 1.2500, in FP8 1.0000; "
    assert falqon("models", "serve", model, "--as", "shared").stdout.startswith(shared)
    assert "shared, as" in falqon("models", "show", model).stdout
    refused = falqon("models", "delete", f"{model}:gguf_lora")
    assert (refused.exit_code, "answers with this adapter" in refused.stderr) == (1, True)


def test_a_base_model_is_not_anybodys_to_delete(falqon: Falqon, service: Service) -> None:
    key = falqon("keys", "create", "of a writer", "--scope", "write").stdout.strip()
    writer = ("--base-url", service.url, "--api-key", key)
    refused = falqon("models", "delete", "falqon-tiny", *writer)
    assert refused.exit_code == 1
    assert "base model" in refused.stderr
    assert "falqon-tiny" in falqon("models", "list").stdout
