"""DSPy: ask, stream, structured output, and `BootstrapFinetune`, whose job trains here."""

import os
from typing import Literal

import dspy
from dspy.utils import DummyLM

MODEL = f"openai/{os.environ['MODEL']}"
QUESTIONS = [f"Visitor {number}: what is the code?" for number in range(24)]


class Mood(dspy.Signature):
    """Tell the mood of a text."""

    text: str = dspy.InputField()
    mood: Literal["good", "bad"] = dspy.OutputField()


def main() -> None:
    lm = dspy.LM(MODEL, custom_llm_provider="openai", max_tokens=64, cache=False)
    assert lm("What is the code?")[0]
    assert dspy.LM(MODEL, model_type="responses", max_tokens=64, cache=False)("Hello")[0]
    with dspy.context(lm=lm, adapter=dspy.JSONAdapter()):
        assert dspy.Predict(Mood)(text="All is well.").mood in ("good", "bad")
    student = dspy.Predict("question -> answer")
    student.set_lm(lm)
    teacher = student.deepcopy()
    teacher.set_lm(DummyLM([{"answer": "The code is 2024."}] * len(QUESTIONS)))
    rows = [dspy.Example(question=question).with_inputs("question") for question in QUESTIONS]
    optimizer = dspy.BootstrapFinetune(train_kwargs={"n_epochs": 1}, num_threads=1)
    trained = optimizer.compile(student, trainset=rows, teacher=teacher)
    assert trained.lm.model.startswith("ft:"), trained.lm.model
    assert trained.lm("What is the code?")[0]


main()
