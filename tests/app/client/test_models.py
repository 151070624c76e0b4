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


def test_a_base_model_is_not_anybodys_to_delete(falqon: Falqon, service: Service) -> None:
    key = falqon("keys", "create", "of a writer", "--scope", "write").stdout.strip()
    writer = ("--base-url", service.url, "--api-key", key)
    refused = falqon("models", "delete", "falqon-tiny", *writer)
    assert refused.exit_code == 1
    assert "base model" in refused.stderr
    assert "falqon-tiny" in falqon("models", "list").stdout
