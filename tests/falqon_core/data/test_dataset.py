import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError, ModelError
from falqon_core.data import dataset
from falqon_core.data.dataset import load_dataset
from falqon_core.data.sequences import Pair, encode
from falqon_core.records.line_parser import parse_record


def chat(answer: str, question: str = "What?") -> dict[str, object]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_batches_give_what_encode_gives(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "RECORDS_AT_ONCE", 3)
    path = write(
        tmp_path / "train.jsonl", *[chat(f"Answer {index}" * (index + 1)) for index in range(8)]
    )

    loaded = load_dataset(path, unmarked, 64)

    for raw, sequence in zip(path.read_bytes().splitlines(), loaded.sequences, strict=True):
        expected = encode(parse_record(raw), unmarked, 64).item
        assert np.array_equal(sequence.input_ids, expected.input_ids)
        assert np.array_equal(sequence.loss_mask, expected.loss_mask)
    assert loaded.num_tokens == sum(len(sequence) for sequence in loaded.sequences)
    assert loaded.num_truncated == sum(len(sequence) == 64 for sequence in loaded.sequences) > 0


def test_records_without_targets_are_counted_and_left_out(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    path = write(tmp_path / "train.jsonl", chat("Short."), chat("Short.", question="word " * 100))

    loaded = load_dataset(path, unmarked, 48)

    assert len(loaded.sequences) == 1
    assert loaded.num_without_targets == 1


def test_nothing_to_learn_is_refused(tmp_path: Path, unmarked: PreTrainedTokenizerBase) -> None:
    path = write(tmp_path / "train.jsonl", chat("Short.", question="word " * 100))

    with pytest.raises(DatasetError, match="nothing to learn is left within 48 tokens") as caught:
        load_dataset(path, unmarked, 48)
    assert caught.value.param == "training_file"


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(
    content: bytes, tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)

    with pytest.raises(DatasetError, match="empty"):
        load_dataset(tmp_path / "train.jsonl", unmarked, 48)


def test_a_bad_record_is_named_by_its_line(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    path = write(tmp_path / "train.jsonl", chat("Yes."))
    path.write_bytes(path.read_bytes() + b"\n{not json\n")

    with pytest.raises(DatasetError, match=r"^line 3, column 2: not JSON") as caught:
        load_dataset(path, unmarked, 48)
    assert caught.value.param == "training_file"


def test_a_refusal_of_the_template_is_named_by_its_line(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    unmarked.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system prompts') }}{% "
        "endif %}" + unmarked.chat_template
    )
    bad = chat("Yes.")
    bad["messages"].insert(0, {"role": "system", "content": "Be brief."})
    path = write(tmp_path / "train.jsonl", chat("Yes."), chat("No."), bad)

    with pytest.raises(DatasetError, match=r"^line 3: .*no system prompts") as caught:
        load_dataset(path, unmarked, 48, param="validation_file")
    assert caught.value.param == "validation_file"


def test_a_missing_file_is_refused(tmp_path: Path, unmarked: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        load_dataset(tmp_path / "nowhere.jsonl", unmarked, 48)


def test_chats_without_a_template_are_the_models_fault(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    unmarked.chat_template = None

    with pytest.raises(ModelError, match="chat template"):
        load_dataset(write(tmp_path / "train.jsonl", chat("Yes.")), unmarked, 48)


def test_split_is_disjoint_complete_and_repeatable(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    loaded = load_dataset(
        write(tmp_path / "train.jsonl", *[chat(f"Answer {i}.") for i in range(40)]), unmarked, 128
    )

    train, held_out = loaded.split(0.1, seed=3)
    again, _ = loaded.split(0.1, seed=3)
    other, _ = loaded.split(0.1, seed=4)

    texts = [tuple(sequence.input_ids) for sequence in loaded.sequences]
    assert len(held_out.sequences) == 4
    assert sorted(tuple(s.input_ids) for s in [*train.sequences, *held_out.sequences]) == sorted(
        texts
    )
    assert [tuple(s.input_ids) for s in train.sequences] == [
        tuple(s.input_ids) for s in again.sequences
    ]
    assert [tuple(s.input_ids) for s in train.sequences] != [
        tuple(s.input_ids) for s in other.sequences
    ]
    assert train.num_tokens + held_out.num_tokens == loaded.num_tokens


def test_split_holds_out_at_least_one_or_nothing(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    loaded = load_dataset(write(tmp_path / "train.jsonl", chat("Yes."), chat("No.")), unmarked, 128)

    assert [len(part.sequences) for part in loaded.split(0.0, seed=0)] == [2, 0]
    assert [len(part.sequences) for part in loaded.split(0.01, seed=0)] == [1, 1]
    single = load_dataset(write(tmp_path / "one.jsonl", chat("Yes.")), unmarked, 128)
    with pytest.raises(DatasetError, match="too few"):
        single.split(0.5, seed=0)


def test_tolerated_bad_records_are_counted_and_left_out(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    unmarked.chat_template = (
        "{% if messages[0]['content'] == 'no' %}{{ raise_exception('not this one') }}{% endif %}"
        + unmarked.chat_template
    )
    path = write(
        tmp_path / "train.jsonl",
        *[chat(f"Answer {index}.") for index in range(38)],
        chat("Refused.", question="no"),
    )
    path.write_bytes(b"{oops\n" + path.read_bytes())

    loaded = load_dataset(path, unmarked, 128, max_bad_fraction=0.05)

    assert (len(loaded.sequences), loaded.num_bad) == (38, 2)
    assert loaded.first_bad.startswith("line 1, column 2: not JSON")
    train, held_out = loaded.split(0.5, seed=1)
    assert (train.num_bad, held_out.num_bad) == (2, 0)
    with pytest.raises(
        DatasetError,
        match=r"2 of 40 records are bad \(5.00%\), more than max_bad_record_fraction = 0.04",
    ) as caught:
        load_dataset(path, unmarked, 128, "validation_file", max_bad_fraction=0.04)
    assert caught.value.param == "validation_file"


def test_no_tolerance_covers_a_mixed_file(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    path = write(tmp_path / "train.jsonl", *[chat("Yes.")] * 50, {"text": "No."})

    with pytest.raises(DatasetError, match=r"^line 51, column 1: this line has shape 'text'"):
        load_dataset(path, unmarked, 128, max_bad_fraction=0.1)


def test_other_dialects_train_as_what_they_mean(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    alpaca = {"instruction": "What?", "input": "", "output": "Yes."}
    turns = {
        "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "Yes."}]
    }

    (expected,) = load_dataset(
        write(tmp_path / "chat.jsonl", chat("Yes.")), unmarked, 128
    ).sequences
    for record in (alpaca, turns):
        (sequence,) = load_dataset(write(tmp_path / "other.jsonl", record), unmarked, 128).sequences
        assert np.array_equal(sequence.input_ids, expected.input_ids)
        assert np.array_equal(sequence.loss_mask, expected.loss_mask)


def preference(good: str, bad: str, question: str = "What?") -> dict[str, object]:
    messages = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": question},
    ]
    outputs = ([{"role": "assistant", "content": answer}] for answer in (good, bad))
    return {
        "input": {"messages": messages},
        **dict(zip(("preferred_output", "non_preferred_output"), outputs, strict=True)),
    }


@pytest.mark.parametrize("template", ["marked", "unmarked"])
def test_a_preference_becomes_a_pair_of_one_prompt(
    template: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(template)
    path = write(
        tmp_path / "train.jsonl",
        preference("The shop sells lamps.", "No."),
        preference("Seven.", "Nine, I think."),
    )

    loaded = load_dataset(path, tokenizer, 128, objective="dpo")

    answers = []
    for pair in loaded.sequences:
        assert isinstance(pair, Pair)
        start = int(np.flatnonzero(pair.chosen.loss_mask)[0])
        assert int(np.flatnonzero(pair.rejected.loss_mask)[0]) == start
        assert np.array_equal(pair.chosen.input_ids[:start], pair.rejected.input_ids[:start])
        answers.append(
            [
                tokenizer.decode(half.input_ids[half.loss_mask])
                for half in (pair.chosen, pair.rejected)
            ]
        )
    assert answers == [
        ["The shop sells lamps.<|im_end|>", "No.<|im_end|>"],
        ["Seven.<|im_end|>", "Nine, I think.<|im_end|>"],
    ]
    assert loaded.num_tokens == sum(
        len(pair.chosen) + len(pair.rejected) for pair in loaded.sequences
    )


def test_both_halves_are_cut_alike_and_a_pair_needs_both(
    tmp_path: Path, unmarked: PreTrainedTokenizerBase
) -> None:
    long = "word " * 100
    records = [
        preference("Yes.", long),
        preference("No.", "Yes."),
        preference(long + "a", long + "b"),  # the difference is cut away
        preference("Yes.", "No.", question=long),  # and here both answers
    ]

    loaded = load_dataset(write(tmp_path / "train.jsonl", *records), unmarked, 80)

    assert loaded.truncated.tolist() == [True, False]
    assert loaded.num_without_targets == 2
    assert len(loaded.sequences[0].rejected) == 80
    assert len(loaded.sequences[0].chosen) < 80


@pytest.mark.parametrize(
    ("records", "objective", "match"),
    [
        (
            [preference("a", "b")],
            "supervised",
            r"^line 1: .*preference record, which only method dpo",
        ),
        (
            [chat("Yes.")],
            "dpo",
            r"^line 1: .*shape 'messages', but method dpo.*'non_preferred_output'",
        ),
        (
            [chat("Yes."), preference("a", "b")],
            "supervised",
            r"^line 2, column 1: .*shape 'preference' but the lines before it have 'messages'",
        ),
        (
            [preference("a", "b"), {"text": "c"}],
            None,
            r"^line 2, column 1: .*shape 'text' but the lines before it have 'preference'",
        ),
    ],
)
def test_the_wrong_kind_of_record_is_named_by_its_line(
    records: list[object],
    objective: str | None,
    match: str,
    tmp_path: Path,
    unmarked: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(DatasetError, match=match) as caught:
        load_dataset(
            write(tmp_path / "train.jsonl", *records), unmarked, 80, "validation_file", objective
        )
    assert caught.value.param == "validation_file"
