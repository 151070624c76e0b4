"""Chat templates of our own with the properties that those of model families have, for the tokens
of falqon-tiny and the control tokens of each family.
"""

from pathlib import Path
from typing import NamedTuple

from transformers import AutoTokenizer, PreTrainedTokenizerBase


class Family(NamedTuple):
    """`tokens`: its control tokens; `ends`: those at which serving stops. `rewrites`: whether a
    turn is written differently once a user has asked again.
    """

    template: str
    tokens: tuple[str, ...]
    ends: tuple[str, ...]
    rewrites: bool
    has_system: bool = True
    has_tools: bool = False
    has_reasoning: bool = False

    def tokenizer(self, folder: Path) -> PreTrainedTokenizerBase:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(self.tokens), special_tokens=True)
        tokenizer.chat_template = self.template
        return tokenizer


_CALLS = (
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }}"
    "{{ call.function.arguments | tojson }}</tool_call>{% endfor %}"
)
_LAST_QUERY = (
    "{% set ns = namespace(query=-1) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor %}"
)
_NO_THINKING = "{% if enable_thinking is defined and not enable_thinking %}"

# reasoning, or an empty block in its place, stays in the turns of the last query only
QWEN3 = Family(
    _LAST_QUERY + "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.query "
    "and (loop.last or m.reasoning_content) %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}" + _CALLS + "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    + _NO_THINKING
    + "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    (),
    ("<|im_end|>",),
    rewrites=True,
    has_tools=True,
    has_reasoning=True,
)
# a preamble by the mode, and marks that begin before the generation prompt ends
SMOLLM3 = Family(
    "{% if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}"
    "<|im_start|>system\nMode: {{ '/think' if enable_thinking else '/no_think' }}\n"
    "{{ messages[0].content if messages[0].role == 'system' }}<|im_end|>\n"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{{ '<|im_start|>assistant\n' + ('' if enable_thinking else '<think>\n\n</think>\n') "
    "+ m.content + '<|im_end|>\n' }}{% endgeneration %}"
    "{% elif m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "+ ('' if enable_thinking else '<think>\n\n</think>\n') }}{% endif %}",
    (),
    ("<|im_end|>",),
    rewrites=False,
)
GEMMA = Family(
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}<bos>{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' "
    "+ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ("<bos>", "<start_of_turn>", "<end_of_turn>"),
    ("<end_of_turn>",),
    rewrites=False,
    has_system=False,
)
# tools stand before the last question
MISTRAL = Family(
    _LAST_QUERY + "<s>{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and loop.index0 == ns.query %}"
    "{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST]' + m.content + '[/INST]' }}{% elif m.role == 'tool' %}"
    "{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}{% elif m.role == 'assistant' %}"
    "{{ m.content }}" + _CALLS + "{{ '</s>' }}{% endif %}{% endfor %}",
    ("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    ("</s>",),
    rewrites=False,
    has_tools=True,
)
LLAMA3 = Family(
    "<|begin_of_text|>{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}"
    + _CALLS
    + "{{ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ("<|eot_id|>",),
    rewrites=False,
)
# the system message stands in a question that ends the chat, which answers end no more
MISTRAL_SYSTEM = MISTRAL._replace(
    template=MISTRAL.template.replace(
        "{{ '[INST]' + m.content",
        "{{ '[INST]' + (messages[0].content + '\n\n' if loop.last and messages[0].role == 'system' "
        "else '') + m.content",
    )
)
# the generation prompt stands behind every chat, asked for or not
LLAMA3_BASE = LLAMA3._replace(
    template=LLAMA3.template.replace("{% if add_generation_prompt %}", "").removesuffix(
        "{% endif %}"
    )
)
# a chat that is over ends with one token more, which serving never sees
PHI = Family(
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{{ '<|assistant|>\n' if add_generation_prompt else '<|endoftext|>' }}",
    ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"),
    ("<|end|>",),
    rewrites=False,
)
# the last answer ends otherwise, and reasoning is a message of the last answer only
HARMONY = Family(
    "{% for m in messages %}{% if m.role != 'assistant' %}"
    "{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}"
    "{% else %}{% if loop.last and m.thinking %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content "
    "+ ('<|return|>' if loop.last else '<|end|>') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
    ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>"),
    ("<|return|>",),
    rewrites=True,
    has_reasoning=True,
)

FAMILIES = {
    "qwen3": QWEN3,
    "smollm3": SMOLLM3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "mistral_system": MISTRAL_SYSTEM,
    "llama3": LLAMA3,
    "llama3_base": LLAMA3_BASE,
    "phi": PHI,
    "harmony": HARMONY,
}
