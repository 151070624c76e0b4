"""Variables of a chat template, such as `enable_thinking`, get the values that a recipe gives them.

They are written into the template as its own defaults, so every part of a training renders with
them, and so does every server of the exported model, unless a request says otherwise.
"""

import json
import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import ConfigError
from falqon_core.contract.model_folder import MAX_TEMPLATE_BYTES
from falqon_core.contract.template_kwargs import TemplateValue


def set_template_defaults(
    tokenizer: PreTrainedTokenizerBase, values: Mapping[str, TemplateValue] | None
) -> None:
    """Give the tokenizer's chat template these defaults.

    Raises `ConfigError` for a variable that the template does not read.
    """
    if not values:
        return
    template = tokenizer.chat_template
    for name in values:
        if not re.search(rf"\b{name}\b", str(template or "")):
            raise ConfigError(
                f"chat_template_kwargs: the model's chat template reads no {name!r}; leave it out, "
                "or look for its name in the template",
                "chat_template_kwargs",
            )
    if isinstance(template, dict):
        tokenizer.chat_template = {
            name: _with_defaults(text, values) for name, text in template.items()
        }
    else:
        tokenizer.chat_template = _with_defaults(template, values)


def _with_defaults(template: str, values: Mapping[str, TemplateValue]) -> str:
    """Put the defaults on a line of their own, which leaves no trace in what is rendered."""
    defaults = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {literal} %}}{{% endif %}}"
        for name, value in values.items()
        # Jinja reads a value as JSON writes it.
        if (literal := json.dumps(value, ensure_ascii=False))
    )
    whole = f"{defaults}\n{template}"
    if len(whole.encode()) > MAX_TEMPLATE_BYTES:
        raise ConfigError(
            f"chat_template_kwargs: the chat template with these defaults has more than "
            f"{MAX_TEMPLATE_BYTES >> 10} KiB, which no model may have",
            "chat_template_kwargs",
        )
    return whole
