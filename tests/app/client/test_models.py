import json
from collections.abc import Callable

from tests.app.client.conftest import Falqon
from tests.support.service import Service


def test_a_model_from_its_job_to_its_end(falqon: Falqon, service: Service, submitted: Callable[..., str]) -> None:
    job_id = submitted("--suffix", "mine")
    assert falqon("jobs", "watch", job_id).exit_code == 0
    model = json.loads(falqon("jobs", "show", job_id, "--json").stdout)["fine_tuned_model"]
    (row,) = [line for line in falqon("models", "list").stdout.splitlines() if line.startswith(model)]
    assert "falqon-tiny" in row
    shown = falqon("models", "show", model).stdout
    for words in (job_id, "falqon-tiny", "model.safetensors", "config.json"):
        assert words in shown
    assert json.loads(falqon("models", "show", model, "--json").stdout) == service.client.models.retrieve(model).to_dict()

    assert falqon("models", "delete", model).stdout == f"{model} is deleted.\n"
    assert falqon("models", "show", model).exit_code == 3
    assert falqon("download", model).exit_code == 3
    assert model not in falqon("models", "list").stdout


def test_a_base_model_is_not_anybodys_to_delete(falqon: Falqon) -> None:
    refused = falqon("models", "delete", "falqon-tiny")
    assert refused.exit_code == 1
    assert "base model" in refused.stderr
    assert "falqon-tiny" in falqon("models", "list").stdout
