"""What a job shows beyond what it was asked, and what `falqon` takes beyond a recipe."""

import openai
import pytest

from app.models import Event, Job, Submission
from tests.support.api import Tenant


def test_the_best_checkpoint(tenant: Tenant) -> None:
    job = tenant.job()
    assert job.best_checkpoint is None
    tenant.claim(job.id)
    for step, metrics in (
        (1, {"valid_loss": 0.5}),
        (2, {"valid_loss": 0.25}),
        (3, {"valid_loss": 0.25}),
        (4, {"train_loss": 0.1}),
    ):
        tenant.add_checkpoint(job.id, step, metrics=metrics)
    best = tenant.client.fine_tuning.jobs.retrieve(job.id).best_checkpoint
    listed = {
        checkpoint.step_number: checkpoint
        for checkpoint in tenant.client.fine_tuning.jobs.checkpoints.list(job.id)
    }
    assert best == listed[2].to_dict()


def test_extras_that_only_this_service_knows(tenant: Tenant) -> None:
    extras = {
        "early_stopping": {"patience": 3},
        "validation_fraction": 0.2,
        "gpu": "any",
        "num_gpus": 1,
        "sample_prompts": [],
    }
    job = tenant.job(extra_body={"falqon": extras})
    assert job.config["early_stopping_patience"] == 3
    assert not {"gpu", "num_gpus", "early_stopping", "sample_prompts"} & set(job.config)
    assert tenant.job(extra_body={"falqon": {"gpu": "cpu"}}).status == "queued"
    both = {
        "early_stopping": {"patience": 3},
        "early_stopping_patience": 3,
        "validation_fraction": 0.2,
    }
    assert tenant.job(extra_body={"falqon": both}).config["early_stopping_patience"] == 3


REFUSED = {
    "blind early stopping": (
        {"early_stopping": {"patience": 2}, "validation_fraction": 0},
        "early_stopping_patience",
        "invalid_value",
    ),
    "two patiences": (
        {
            "early_stopping": {"patience": 2},
            "early_stopping_patience": 3,
            "validation_fraction": 0.2,
        },
        "early_stopping_patience",
        "invalid_value",
    ),
    "min_delta": (
        {"early_stopping": {"patience": 2, "min_delta": 0.1}, "validation_fraction": 0.2},
        "early_stopping.min_delta",
        "invalid_value",
    ),
    "no patience": (
        {"early_stopping": {}},
        "early_stopping.patience",
        "missing_required_parameter",
    ),
    "patience as text": (
        {"early_stopping": {"patience": "2"}},
        "early_stopping.patience",
        "invalid_value",
    ),
    "another device": ({"gpu": "h100-sxm"}, "gpu", "gpu_not_available"),
    "several GPUs of a CPU": ({"num_gpus": 2}, "num_gpus", "too_few_gpus"),
    "no GPU": ({"num_gpus": 0}, "num_gpus", "invalid_value"),
    "prompts": ({"sample_prompts": ["hello"]}, "sample_prompts", "invalid_value"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_extras_that_cannot_be_honoured(tenant: Tenant, kind: str) -> None:
    extras, param, code = REFUSED[kind]
    file_id = tenant.upload()
    before = tenant.num_rows(Job, Event, Submission)
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(training_file=file_id, extra_body={"falqon": extras})
    assert (caught.value.param, caught.value.code) == (f"falqon.{param}", code)
    assert tenant.num_rows(Job, Event, Submission) == before
