"""A trial of a model's chat templates before an engine renders them, which has no limits for that:
`python -m falqon_core.importers.template_trial FOLDER|FILE.gguf`.

Ends with 0, or with 1 and a sentence on stdout; with SIGPROF where a template cannot be
interrupted. It loads no tokenizer, so that it costs a fraction of a second. A template that refuses
a chat is fine.
"""

import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from falqon_core.contract.model_folder import MAX_TEMPLATE_BYTES
from falqon_core.data.resource_limits import OutOfBounds, run_bounded
from falqon_core.importers.gguf_header import read_texts

MAX_CONFIG_BYTES = 64 * 2**20
MAX_TRIED_TEMPLATES = 20
MAX_TRIED_CHARACTERS = 2**24  # of one chat, whose own text has 2**18
GGUF_KEY = "tokenizer.chat_template"
LONG_TURNS = 128
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}},
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {}}}


class TemplateRefused(Exception):
    """With a sentence for the user."""


class _Generation(Extension):
    """The marks around what an assistant writes; they print nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def try_templates(path: Path) -> None:
    """Render representative chats. Raises `TemplateRefused`."""
    for template in templates_of(path):
        if len(template.encode(errors="replace")) > MAX_TEMPLATE_BYTES:
            raise TemplateRefused(
                f"it has more than {MAX_TEMPLATE_BYTES >> 10} KiB, the limit of a template"
            )
        for chat in _chats():
            _try(template, chat)


def templates_of(path: Path) -> list[str]:
    """Return the chat templates of a GGUF file or of a model's folder."""
    if path.is_file():
        texts = read_texts(path)
        templates = [text for key, text in texts.items() if key.startswith(GGUF_KEY)]
    else:
        templates = list(_templates_in(path))
    if len(templates) > MAX_TRIED_TEMPLATES:
        raise TemplateRefused(f"the model has more than {MAX_TRIED_TEMPLATES} of them")
    return templates


def _templates_in(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.jinja")) + sorted(folder.glob("*templates/*.jinja")):
        with path.open("rb") as file:  # one byte more than the limit is refused
            yield file.read(MAX_TEMPLATE_BYTES + 1).decode(errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json"):
        path = folder / name
        if not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES:
            continue
        config = json.loads(path.read_bytes())
        templates = config.get("chat_template") if isinstance(config, dict) else None
        if isinstance(templates, str):
            yield templates
        for template in templates if isinstance(templates, list) else ():
            if isinstance(template, dict) and isinstance(template.get("template"), str):
                yield template["template"]


def _chats() -> Iterator[dict[str, Any]]:
    user = {"role": "user", "content": "Hello"}
    system = {"role": "system", "content": "Be brief."}
    assistant = {"role": "assistant", "content": "Hello to you."}
    call = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    result = {"role": "tool", "content": "Rain", "tool_call_id": CALL["id"], "name": "weather"}
    long = {"role": "user", "content": "word " * 400}
    yield {"messages": [user], "add_generation_prompt": True}
    yield {"messages": [system, user, assistant]}
    yield {"messages": [user, call, result], "tools": [TOOL], "add_generation_prompt": True}
    yield {"messages": [long, assistant] * (LONG_TURNS // 2), "add_generation_prompt": True}


def _try(template: str, chat: dict[str, Any]) -> None:
    try:
        num_characters = run_bounded(lambda: _num_rendered(template, chat))
    except TemplateSyntaxError as error:
        raise TemplateRefused(f"it is no Jinja, line {error.lineno}") from None
    except RecursionError:
        raise TemplateRefused("it is nested too deep, or calls itself") from None
    except OverflowError:
        raise TemplateRefused("it makes more than fits in memory") from None
    except OutOfBounds as error:
        raise TemplateRefused(f"it {error} for one chat") from None
    except Exception:  # its own, by which it refuses the chat
        return
    if num_characters > MAX_TRIED_CHARACTERS:
        raise TemplateRefused("it makes more than 16 Mi characters of one short chat")


def _num_rendered(template: str, chat: dict[str, Any]) -> int:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse_chat
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    compiled = environment.from_string(template)
    num_characters = 0
    for part in compiled.generate(bos_token="<s>", eos_token="</s>", **chat):
        num_characters += len(part)
        if num_characters > MAX_TRIED_CHARACTERS:
            break
    return num_characters


def _to_json(value: object, indent: int | None = None, **_: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse_chat(message: str) -> None:
    raise ValueError(message)


def main(path: Path) -> int:
    try:
        try_templates(path)
    except TemplateRefused as error:
        sys.stdout.write(f"The model's chat template is refused: {error}.")
    except ValueError as error:
        sys.stdout.write(f"The model's file is refused: {error}.")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
