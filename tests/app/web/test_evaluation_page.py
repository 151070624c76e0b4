"""The page of an evaluation: every row, by the grader and by what came of it."""

import re

import httpx
import pytest

from app.base.ids import new_id
from app.models import Evaluation, EvaluationAnswer, OperationStatus
from app.models.evaluation import AnswerScores, EvaluatedModel, EvaluationPlan, EvaluationResult
from app.models.graders import StringCheck
from tests.support.api import Tenant

GRADERS = ("same", "holds")
# Scores of the base and of the model by both graders; the base was refused the third row.
SCORES = (
    ([0.0, 0.0], [1.0, 0.0]),
    ([1.0, 0.0], [0.0, 1.0]),
    (None, [1.0, 1.0]),
    ([0.5, 0.5], [0.5, 0.5]),
)


def an_evaluation(
    tenant: Tenant,
    *,
    repeated: int = 1,
    is_stored: bool = True,
    file: str = "file-x",
    job_id: str = "",
) -> str:
    """Return the address of its page. `repeated`: times that the same rows come."""
    job_id = job_id or tenant.job().id
    graders = [StringCheck(type="string_check", name=name, operation="eq") for name in GRADERS]
    models = [
        EvaluatedModel(model="base", role="base"),
        EvaluatedModel(model="mine", role="result"),
    ]
    of_base, of_model = zip(*SCORES * repeated, strict=True)
    evaluation = Evaluation(
        id=new_id("eval-"),
        project_id=tenant.project_id,
        job_id=job_id,
        file_id=file,
        origin="file",
        plan=EvaluationPlan(graders=graders, models=models, max_rows=99, max_tokens=9),
        status=OperationStatus.COMPLETED,
        num_rows=len(of_model),
        scores=AnswerScores(by_model={"base": list(of_base), "mine": list(of_model)}),
    )
    with tenant.api.database.transaction() as session:
        session.add(evaluation)
        session.flush()
        for number in range(len(of_model)) if is_stored else ():
            texts = {"prompt": f"<b>{number}", "expected": "four", "answer": f"mine {number}"}
            session.add(
                EvaluationAnswer(
                    evaluation_id=evaluation.id,
                    number=number,
                    line=number + 1,
                    base_answer=f"base {number}",
                    **texts,
                )
            )
    return f"/jobs/{job_id}/evaluations/{evaluation.id}"


def lines(page: str) -> list[int]:
    return [int(number) for number in re.findall(r"Line (\d+)", page)]


def test_a_row_has_both_answers_their_scores_and_the_expected_one(
    browser: httpx.Client, tenant: Tenant
) -> None:
    page = browser.get(an_evaluation(tenant)).text
    for words in ("&lt;b&gt;0", "mine 0", "base 0", "four", "same 1.00, holds 0.00"):
        assert words in page, words
    assert lines(page) == [1, 2, 4], "a row that the base was refused is none"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?outcome=better", [1]),
        ("?outcome=worse", [2]),
        ("?outcome=same", [4]),
        ("?grader=2&outcome=better", [2]),
        ("?grader=8&outcome=same", [1, 4]),  # There are two: it is the last.
        ("?page=2", []),
    ],
)
def test_rows_are_filtered_by_the_grader_and_by_what_is_better(
    browser: httpx.Client, tenant: Tenant, query: str, expected: list[int]
) -> None:
    assert lines(browser.get(an_evaluation(tenant) + query).text) == expected


def test_a_page_begins_with_the_grader_of_the_verdict(
    browser: httpx.Client, tenant: Tenant
) -> None:
    address = an_evaluation(tenant)
    scores = [{"grader": name, "mean": mean, "standard_error": 0.1, "difference": None}
              for name, mean in zip(GRADERS, (0.0, 0.5), strict=True)]  # fmt: skip
    models = [{"model": role, "role": role, "scores": scores} for role in ("base", "result")]
    result = EvaluationResult.model_validate({"rows": 3, "rows_left_out": 0, "models": models})
    with tenant.api.database.transaction() as session:
        session.get_one(Evaluation, address.rpartition("/")[2]).result = result
    assert re.search(r'aria-current="true">holds<', browser.get(address).text)


def test_pages_follow_each_other_with_their_filter(browser: httpx.Client, tenant: Tenant) -> None:
    page = browser.get(f"{an_evaluation(tenant, repeated=21)}?grader=2&outcome=better")
    assert len(lines(page.text)) == 20
    assert "Page 1 of 2" in page.text
    following = re.search(r'rel="next" href="([^"]+)"', page.text)
    assert following is not None
    assert lines(browser.get(following[1].replace("&amp;", "&")).text) == [82]


def test_an_evaluation_of_an_older_service_has_no_answers_and_says_so(
    browser: httpx.Client, tenant: Tenant
) -> None:
    page = browser.get(an_evaluation(tenant, is_stored=False)).text
    assert "were not stored" in page
    assert "1 better than base" in page


@pytest.mark.parametrize("query", ["?outcome=best", "?grader=0", "?page=101"])
def test_an_address_that_means_nothing_is_refused(
    browser: httpx.Client, tenant: Tenant, query: str
) -> None:
    assert browser.get(an_evaluation(tenant) + query).status_code == 400


def shared_lines(page: httpx.Response) -> list[int]:
    part = page.text.partition('id="compare-answers"')[2].partition("</section>")[0]
    return [int(line) for line in re.findall(r">Line (\d+)<", part)]


def test_answers_of_jobs_to_the_same_rows_stand_beside_each_other(
    browser: httpx.Client, tenant: Tenant
) -> None:
    first, second, third = (tenant.job(suffix=f"job-{number}").id for number in range(3))
    address = f"/compare?job={first}&job={second}"
    assert "No two of these jobs" in browser.get(address).text
    an_evaluation(tenant, job_id=first)
    an_evaluation(tenant, job_id=second, file="file-y")
    assert "No two of these jobs" in browser.get(address).text, "they are other rows"
    an_evaluation(tenant, job_id=second, repeated=4)
    page = browser.get(address)
    assert "3 held-out rows that all of these jobs have answered" in " ".join(page.text.split())
    assert sorted(shared_lines(page)) == [1, 2, 4], "the base was refused the third"
    assert page.text.count("mine 0") == 2
    assert "&lt;b&gt;0" in page.text
    assert "same 1.00, holds 0.00" in page.text
    with_another = browser.get(f"{address}&job={third}").text
    assert "rows that job-0, job-1 have answered" in " ".join(with_another.split())


def test_the_most_different_answers_come_first_by_pages(
    browser: httpx.Client, tenant: Tenant
) -> None:
    first, second = (tenant.job().id for _ in range(2))
    for job_id in (first, second):
        an_evaluation(tenant, job_id=job_id, repeated=4)
    with tenant.api.database.transaction() as session:
        row = session.query(Evaluation).where(Evaluation.job_id == first).one()
        scores = row.scores.model_copy(deep=True)
        scores.by_model["mine"][8] = [0.0, 0.0]
        row.scores = scores
    address = f"/compare?job={first}&job={second}"
    lines = [
        *shared_lines(browser.get(address)),
        *shared_lines(browser.get(f"{address}&answers=2")),
    ]
    assert lines == [9, 1, 2, 4, 5, 6, 8, 10, 12, 13, 14, 16]
    assert "No such rows" in browser.get(f"{address}&answers=3").text
    assert browser.get(f"{address}&answers=0").status_code == 400
