"""A turn is trained as it would be served, whatever the chat template does to earlier turns."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from falqon_core.contract.errors import ConfigError, DatasetError
from falqon_core.data import chat_template
from falqon_core.data.sequences import SequenceGroup, TokenSequence, encode, sequences_of
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.records.shapes import ChatRecord
from tests.falqon_core.data.families import FAMILIES, MISTRAL, MISTRAL_SYSTEM, QWEN3, Family

LONG = 10**6  # tokens: nothing is cut
TOOL = {"type": "function", "function": {"name": "price", "parameters": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "price", "arguments": '{"of": "lamp"}'}}
Learned = tuple[list[int], list[int]]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | fields


TWO_TURNS = [
    user("How much?"),
    assistant("Five dollars. "),
    user("And für zwei? 🙂"),
    assistant("Nine.\n\nThat is cheaper 🙂"),
]
CHATS: dict[str, dict[str, Any]] = {
    "one": {"messages": TWO_TURNS[:2]},
    "two": {"messages": TWO_TURNS},
    "three": {"messages": [*TWO_TURNS, user("Thanks"), assistant("You are welcome.")]},
    "first_unlearned": {"messages": [TWO_TURNS[0], TWO_TURNS[1] | {"weight": 0}, *TWO_TURNS[2:]]},
    "last_unlearned": {"messages": [*TWO_TURNS[:3], TWO_TURNS[3] | {"weight": 0}]},
    "in_a_row": {"messages": [*TWO_TURNS, assistant("And free above forty.")]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, *TWO_TURNS]},
    "reasoning": {
        "messages": [
            TWO_TURNS[0],
            TWO_TURNS[1] | {"reasoning_content": "It costs 5."},
            TWO_TURNS[2],
            TWO_TURNS[3] | {"reasoning_content": "Two cost 9."},
        ]
    },
    "tools": {
        "messages": [
            *TWO_TURNS,
            user("And a lamp?"),
            assistant("", tool_calls=[CALL], reasoning_content="I look."),
            {"role": "tool", "tool_call_id": "1", "content": "7"},
            assistant("Seven.", reasoning_content="It is 7."),
            user("Thanks"),
            assistant("Bye."),
        ],
        "tools": [TOOL],
    },
}


def takes(family: Family, chat: str) -> bool:
    needs = {
        "system": family.has_system,
        "reasoning": family.has_reasoning,
        "tools": family.has_tools,
        "in_a_row": family
        not in (MISTRAL, MISTRAL_SYSTEM),  # no header stands between, so they are one run
    }
    return needs.get(chat, True)


CASES = [(name, chat) for name in FAMILIES for chat in CHATS if takes(FAMILIES[name], chat)]


def trained(
    tokenizer: PreTrainedTokenizerBase, chat: dict[str, Any], max_seq_length: int = LONG
) -> list[Learned]:
    """Return the prompt and the target of every run of learned tokens."""
    item = encode(ChatRecord.model_validate(chat), tokenizer, max_seq_length).item
    return [learned for sequence in sequences_of(item) for learned in runs(sequence)]


def runs(sequence: TokenSequence) -> Iterator[Learned]:
    mask = np.concatenate([[False], sequence.loss_mask, [False]]).astype(int)
    for start, end in np.flatnonzero(np.diff(mask)).reshape(-1, 2):
        yield sequence.input_ids[:start].tolist(), sequence.input_ids[start:end].tolist()


def served(
    tokenizer: PreTrainedTokenizerBase, chat: dict[str, Any], ends: tuple[str, ...], **kwargs: Any
) -> list[Learned]:
    """Return, for every learned turn, the prompt that a server makes of the messages before it, and
    the answer that makes the turn of it, up to where the server stops.
    """
    messages = [
        {key: _arguments(value) for key, value in message.items() if key != "weight"}
        for message in chat["messages"]
    ]
    result = []
    for index, message in enumerate(chat["messages"]):
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        options = {"tools": chat.get("tools"), "tokenize": False} | kwargs
        prompt = tokenizer.apply_chat_template(
            messages[:index], add_generation_prompt=True, **options
        )
        whole = tokenizer.apply_chat_template(messages[: index + 1], **options)
        if not whole.startswith(prompt):  # the history is rewritten, the turn is not
            header = prompt.removeprefix(tokenizer.apply_chat_template(messages[:index], **options))
            whole = prompt + whole.rpartition(header or "[/INST]")[2]
        answer = whole[len(prompt) :]
        end = max(answer.rfind(token) + len(token) for token in ends if token in answer)
        result.append(
            tuple(
                tokenizer(text, add_special_tokens=False)["input_ids"]
                for text in (prompt, answer[:end])
            )
        )
    return result


def _arguments(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    calls = [json.loads(json.dumps(call)) for call in value]
    for call in calls:
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return calls


@pytest.mark.parametrize(("name", "chat"), CASES)
def test_training_prompts_and_targets_equal_those_of_serving(
    name: str, chat: str, tiny_folder: Path
) -> None:
    family = FAMILIES[name]
    tokenizer = family.tokenizer(tiny_folder)

    assert trained(tokenizer, CHATS[chat]) == served(tokenizer, CHATS[chat], family.ends)


@pytest.mark.parametrize("name", FAMILIES)
def test_turns_share_a_sequence_where_later_turns_do_not_change_them(
    name: str, tiny_folder: Path
) -> None:
    tokenizer = FAMILIES[name].tokenizer(tiny_folder)
    record = ChatRecord.model_validate(CHATS["three"])

    encoding = encode(record, tokenizer, LONG)

    assert len(sequences_of(encoding.item)) == (3 if FAMILIES[name].rewrites else 1)
    assert encoding.num_cut == 0


def test_turns_of_one_query_share_a_sequence(tiny_folder: Path) -> None:
    """The call and the answer to it both keep their reasoning until the next question."""
    item = encode(
        ChatRecord.model_validate(CHATS["tools"]), QWEN3.tokenizer(tiny_folder), LONG
    ).item

    assert isinstance(item, SequenceGroup)
    assert [len(list(runs(sequence))) for sequence in item.sequences] == [1, 1, 2, 1]


@pytest.mark.parametrize("name", ["qwen3", "smollm3"])
def test_an_empty_think_block_of_the_prompt_is_no_target(name: str, tiny_folder: Path) -> None:
    family = FAMILIES[name]
    tokenizer = family.tokenizer(tiny_folder)
    expected = served(tokenizer, CHATS["two"], family.ends, enable_thinking=False)
    set_template_defaults(tokenizer, {"enable_thinking": False})

    learned = trained(tokenizer, CHATS["two"])

    assert learned == expected
    assert all("</think>" in tokenizer.decode(prompt[-12:]) for prompt, _ in learned)
    assert not any("think" in tokenizer.decode(target) for _, target in learned)


def test_defaults_give_way_to_what_a_request_says(tiny_folder: Path) -> None:
    tokenizer = QWEN3.tokenizer(tiny_folder)
    on, off = (
        tokenizer.apply_chat_template(
            TWO_TURNS[:1], add_generation_prompt=True, tokenize=False, enable_thinking=value
        )
        for value in (True, False)
    )
    set_template_defaults(tokenizer, {"enable_thinking": False})

    def prompt(**kwargs: Any) -> str:
        return tokenizer.apply_chat_template(
            TWO_TURNS[:1], add_generation_prompt=True, tokenize=False, **kwargs
        )

    assert (prompt(), prompt(enable_thinking=True)) == (off, on)
    assert on != off


@pytest.mark.parametrize(
    "value", [True, 0, 1.5, "low", 'a "quoted" {{ %} \\ 🙂\n', "{% if x %}", ""]
)
def test_defaults_are_what_was_given_and_leave_no_other_trace(
    value: Any, tiny_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = "\n  {% if true %}\n  a{{ effort | tojson }}{% endif %}\n\n"
    expected = tokenizer.apply_chat_template(TWO_TURNS, tokenize=False, effort=value)

    set_template_defaults(tokenizer, {"effort": value})

    assert tokenizer.apply_chat_template(TWO_TURNS, tokenize=False) == expected


def test_a_variable_that_the_template_does_not_read_is_refused(tiny_folder: Path) -> None:
    tokenizer = QWEN3.tokenizer(tiny_folder)

    with pytest.raises(ConfigError, match="reads no 'enable_thinkin'") as caught:
        set_template_defaults(tokenizer, {"enable_thinkin": False})

    assert caught.value.param == "chat_template_kwargs"


def test_reasoning_against_a_prompt_without_is_refused(tiny_folder: Path) -> None:
    tokenizer = QWEN3.tokenizer(tiny_folder)
    set_template_defaults(tokenizer, {"enable_thinking": False})

    with pytest.raises(
        DatasetError, match=r"messages\[1\]: .* serving sends .*leave out its reasoning.*weight 0"
    ):
        trained(tokenizer, CHATS["reasoning"])


def test_marks_are_an_oracle(marked: PreTrainedTokenizerBase) -> None:
    answer = marked.apply_chat_template(
        TWO_TURNS, return_assistant_tokens_mask=True, return_dict=True
    )

    item = encode(ChatRecord.model_validate(CHATS["two"]), marked, LONG).item

    assert isinstance(item, TokenSequence)
    assert item.input_ids.tolist() == answer["input_ids"]
    assert item.loss_mask.tolist() == [bool(value) for value in answer["assistant_masks"]]


@pytest.mark.parametrize("limit", [12, 30, 45, 60])
def test_each_sequence_is_cut_by_itself(limit: int, tiny_folder: Path) -> None:
    tokenizer = QWEN3.tokenizer(tiny_folder)
    whole = encode(ChatRecord.model_validate(CHATS["three"]), tokenizer, LONG)

    cut = encode(ChatRecord.model_validate(CHATS["three"]), tokenizer, limit)

    expected = [
        sequence.input_ids[:limit].tolist()
        for sequence in sequences_of(whole.item)
        if sequence.loss_mask[:limit].any()
    ]
    kept = [sequence.input_ids.tolist() for sequence in sequences_of(cut.item)]
    assert kept == (expected or [sequences_of(whole.item)[0].input_ids[:limit].tolist()])
    assert cut.num_cut == sum(cut.lengths) - len(cut.item) > 0


def test_rewritten_turns_have_a_limit(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = QWEN3.tokenizer(tiny_folder)
    chat = {"messages": [user("a"), assistant("b")] * 5}
    monkeypatch.setattr(chat_template, "MAX_SEQUENCES", 5)
    assert len(trained(tokenizer, chat)) == 5
    monkeypatch.setattr(chat_template, "MAX_SEQUENCES", 4)

    with pytest.raises(
        DatasetError, match=r"messages\[9\]: .* rewrites turns .* 5 turns are too many.*weight 0"
    ):
        trained(tokenizer, chat)


@pytest.mark.parametrize("name", ["qwen3", "llama3"])
def test_a_learned_turn_costs_two_renderings(
    name: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = FAMILIES[name].tokenizer(tiny_folder)
    counts = []
    for num_turns in (4, 8, 12):
        calls: list[object] = []
        bounded = chat_template.run_bounded
        monkeypatch.setattr(
            chat_template, "run_bounded", lambda f, b=bounded, c=calls: (c.append(f), b(f))[1]
        )
        trained(tokenizer, {"messages": [user("a"), assistant("b")] * num_turns})
        monkeypatch.undo()
        counts.append(len(calls))

    assert {after - before for before, after in pairwise(counts)} == {8}
