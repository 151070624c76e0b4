import json

import pytest
from transformers import PreTrainedTokenizerBase

from falqon_core.data.chat_template import render
from falqon_core.data.content_parts import content_for
from falqon_core.importers.tiny import TINY_CHAT_TEMPLATE
from falqon_core.records.line_parser import parse_record
from falqon_core.records.shapes import ChatRecord

PARTS = [{"type": "text", "text": "How"}, {"type": "text", "text": "much?"}]
HEAD = "{% for message in messages %}<{{ message.role }}>"
LOOP = "{% for part in message.content %}{{ part.text | trim }} {% endfor %}"
STRING = HEAD + "{{ message['content'] | trim }}{% endfor %}"
JSON = HEAD + "{{ message.content | tojson }}{% endfor %}"
ADDED = HEAD + "{{ message['content'] + '.' }}{% endfor %}"
ONLY_PARTS = HEAD + LOOP + "{% endfor %}"
BOTH = HEAD + "{% if message.content is string %}{{ message.content }}{% else %}" + LOOP
BOTH += "{% endif %}{% endfor %}"
OF_USERS = (
    HEAD + "{% if message.role == 'user' and message.content is not string %}" + LOOP
) + "{% else %}{{ message.content + '.' }}{% endif %}{% endfor %}"


@pytest.mark.parametrize("template", [STRING, JSON, ADDED, TINY_CHAT_TEMPLATE, "{{ broken"])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_template_that_expects_a_string_gets_a_line_for_each_part(
    template: str, role: str
) -> None:
    assert content_for(template, role, ["How", "much?"]) == "How\nmuch?"  # type: ignore[arg-type]
    assert content_for(template, role, ["How much?"]) == "How much?"  # type: ignore[arg-type]


@pytest.mark.parametrize("template", [ONLY_PARTS, BOTH])
def test_a_template_that_loops_over_parts_gets_parts(template: str) -> None:
    assert content_for(template, "user", ["How", "much?"]) == PARTS
    assert content_for(template, "system", ["How", "much?"]) == PARTS


def test_a_string_is_a_part_where_a_template_takes_nothing_else() -> None:
    assert content_for(BOTH, "user", ["How"]) == "How"
    assert content_for(ONLY_PARTS, "user", ["How"]) == PARTS[:1]
    assert content_for(ONLY_PARTS, "user", []) == []


def test_roles_are_taken_each_in_their_own_way() -> None:
    assert content_for(OF_USERS, "user", ["How", "much?"]) == PARTS
    assert content_for(OF_USERS, "assistant", ["How", "much?"]) == "How\nmuch?"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (ONLY_PARTS, "<system>Be brief. <user>How much? <assistant>Five. "),
        (BOTH, "<system>Be brief.<user>How much? <assistant>Five."),
        (STRING, "<system>Be brief.<user>How\nmuch?<assistant>Five."),
    ],
)
def test_a_chat_is_rendered_as_it_is_served(
    unmarked: PreTrainedTokenizerBase, template: str, text: str
) -> None:
    unmarked.chat_template = template
    system = {"role": "system", "content": "Be brief."}
    answer = {"role": "assistant", "content": "Five."}
    line = {"messages": [system, {"role": "user", "content": PARTS}, answer]}
    record = parse_record(json.dumps(line).encode())
    assert isinstance(record, ChatRecord)
    assert render(record, unmarked).text == text
