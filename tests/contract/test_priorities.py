from typing import Any

import openai
import pytest

from tests.support.api import Tenant


@pytest.mark.both_databases
def test_a_priority_is_kept_and_shown(tenant: Tenant) -> None:
    job = tenant.job(extra_body={"priority": 5})
    assert job.priority == 5
    assert tenant.client.fine_tuning.jobs.retrieve(job.id).priority == 5
    assert tenant.job().priority == 0


@pytest.mark.parametrize("value", [11, -11, 1.5, "5", True, None])
def test_a_priority_is_a_small_whole_number(tenant: Tenant, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        tenant.job(extra_body={"priority": value})
    assert (caught.value.code, caught.value.param) == ("invalid_value", "priority")
