"""An evaluation that ends while its job's page is open."""

import re
from decimal import Decimal

from playwright.sync_api import expect

from app.models import Evaluation
from app.models.evaluation import AnswerExample, EvaluationResult
from app.operations import claims
from falqon_core.estimate.prices import default_price
from tests.app.web.test_evaluation_panel import MODELS, score
from tests.browser.visit import Visits
from tests.contract.access_objects import an_evaluation
from tests.support.api import Tenant
from worker.evaluation import outcome
from worker.evaluation.charge import Charge


def example(answer: str, grade: float) -> AnswerExample:
    return AnswerExample(line=1, prompt="Two?", expected="four", answer=answer, scores=[grade])


def test_the_verdict_its_answers_and_its_cost_appear_by_themselves(
    visits: Visits, tenant: Tenant
) -> None:
    params = an_evaluation(tenant)
    page = visits.sign_in(tenant.api.url, tenant.key)
    page.goto(f"/jobs/{params['job_id']}")
    panel = page.get_by_role("region", name="Is it better than its base?")
    expect(panel).to_contain_text("in progress")
    rows = [score(0.25), score(0.75, "better")]
    models = [
        model.model_dump() | {"scores": [row]}
        for model, row in zip((MODELS[0], MODELS[2]), rows, strict=True)
    ]
    result = EvaluationResult.model_validate(
        {"rows": 4, "rows_left_out": 0, "models": models}
    ).model_copy(update={"best": [example("four", 1)], "worst": [example("<b>five</b>", 0)]})
    charge = Charge(0.0, Decimal(0), 2, default_price("cpu"))
    charge.add(3600.0)
    with tenant.api.database.transaction() as session:
        evaluation = claims.claim(session, Evaluation, 60)
        assert evaluation is not None
        assert outcome.complete(session, evaluation, result, charge)
    sentence = "Better than the base: 0.75 against 0.25 by <same> (4 rows, p = 0.004)."
    expect(panel.locator(".verdict")).to_have_text(sentence)
    tile = page.get_by_label("Progress", exact=True).locator("dl.glance > div")
    expect(tile.filter(has_text="Against its base")).to_contain_text("Better: 75 % vs 25 %")
    expect(tile.filter(has_text="Cost")).to_contain_text(f"${charge.cost:.2f}")
    assert charge.cost == Decimal("0.0900")
    worst = panel.get_by_text("<b>five</b>")
    expect(worst).to_be_hidden()
    panel.get_by_text("Best and worst answers").click()
    expect(worst).to_be_visible()
    expect(panel).to_have_text(re.compile("Best.*four.*Worst.*five", re.DOTALL))
