import json

import pytest

from app.inference.questions import EngineRequest, estimate_tokens, split
from app.inference.schemas import CompletionRequest
from app.inference.usage import TokenUsage, UsageTally, usage_of


def questions() -> list[EngineRequest]:
    fields = {"model": "m", "prompt": ["a" * 40, "b" * 80], "n": 2, "seed": 7}
    return split(CompletionRequest.model_validate(fields).for_engine())


def test_each_prompt_is_asked_once_for_each_choice() -> None:
    bodies = [question.fields for question in questions()]
    assert [body["prompt"][0] for body in bodies] == ["a", "a", "b", "b"]
    assert [body["seed"] for body in bodies] == [7, 8, 7, 8]
    assert not any("n" in body for body in bodies)
    for tokens, num_prompts in (([1, 2, 3], 1), ([[1, 2], [3]], 2)):
        assert len(split(json.dumps({"prompt": tokens}).encode())) == num_prompts


def test_prompts_count_once_and_all_answers() -> None:
    all_questions = questions()
    first, second = estimate_tokens(all_questions)
    assert 10 <= first < second <= 40
    tally = UsageTally([first, second], len(all_questions))
    assert (tally.estimate, tally.num_tokens) == (first + second, 0), "nothing is sent yet"
    for question in all_questions[:3]:
        tally.add_sent(question)
        tally.add_event(question)
    assert tally.num_tokens == first + second + 3
    for question in all_questions[:2]:
        tally.set_usage(question, TokenUsage(12, 6, question.choice * 11))
    assert tally.num_tokens == 12 + second + 2 * 6 + 1
    tally.take_refused(all_questions[2])
    assert tally.document(is_private=False) == {
        "prompt_tokens": 12,
        "completion_tokens": 13,
        "total_tokens": 25,
    }
    details = tally.document(is_private=True)["prompt_tokens_details"]
    assert details == {"cached_tokens": 0}, "a choice after the first finds its own prompt"


def test_a_refused_choice_takes_no_prompt_that_another_choice_was_answered_to() -> None:
    answered, refused, *_ = questions()
    tally = UsageTally([10, 20], 4)
    for question in (answered, refused):
        tally.add_sent(question)
    tally.set_usage(answered, TokenUsage(12, 6, 0))
    tally.take_refused(refused)
    assert tally.num_tokens == 12 + 6


@pytest.mark.parametrize(
    ("number", "expected"),
    [(7, 7), (-1, 0), (10**400, 2**31), ("7", 0), (None, 0), (1.5, 0)],
)
def test_the_figures_of_an_engine_are_bounded(number: object, expected: int) -> None:
    usage = usage_of({"usage": {"prompt_tokens": number, "completion_tokens": 1}})
    assert usage == TokenUsage(expected, 1, 0)


def test_an_engine_may_tell_nothing() -> None:
    assert usage_of({}) is None
    assert usage_of({"usage": None}) is None
