import json

import openai
import pytest

from tests.support.api import Tenant

PREFERENCE = {
    "input": {"messages": [{"role": "user", "content": "How much?"}]},
    "preferred_output": [{"role": "assistant", "content": "Five."}],
    "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
}
PREFERENCES = (json.dumps(PREFERENCE) + "\n").encode() * 12


def test_a_job_learns_from_preferences(tenant: Tenant) -> None:
    training = tenant.upload(PREFERENCES, check=False)
    numbers = {"n_epochs": 2, "beta": 0.2}
    job = tenant.job(
        training_file=training, method={"type": "dpo", "dpo": {"hyperparameters": numbers}}
    )
    assert job.method.to_dict() == {
        "type": "dpo",
        "dpo": {
            "hyperparameters": {
                "n_epochs": 2,
                "batch_size": "auto",
                "learning_rate_multiplier": "auto",
                "beta": 0.2,
            }
        },
    }
    assert tenant.check(training) == [job.id]
    job = tenant.client.fine_tuning.jobs.retrieve(job.id)
    assert [job.config[name] for name in ("objective", "method", "beta")] == ["dpo", "falqon", 0.2]
    assert job.method.dpo.hyperparameters.to_dict() == {
        "n_epochs": 2,
        "batch_size": 4,
        "learning_rate_multiplier": 1.0,
        "beta": 0.2,
    }
    assert (job.estimate["num_records"], job.estimate["steps"]) == (12, 6)


def test_preferences_need_the_method_that_compares(tenant: Tenant) -> None:
    training = tenant.upload(PREFERENCES, check=False)
    job = tenant.job(training_file=training)
    assert tenant.check(training) == []
    job = tenant.client.fine_tuning.jobs.retrieve(job.id)
    assert (job.status, job.error.code, job.error.param) == (
        "failed",
        "invalid_training_file",
        "training_file",
    )
    assert "only method dpo learns from" in job.error.message
    with pytest.raises(openai.BadRequestError, match="only method dpo learns from") as caught:
        tenant.job(training_file=training)
    assert (caught.value.param, caught.value.code) == ("training_file", "invalid_training_file")
