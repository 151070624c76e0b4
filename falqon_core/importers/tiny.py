"""`falqon-tiny`: a 2-layer Llama with random weights and its own tokenizer, so that anyone can try
the whole service in seconds.

Everything is drawn or trained from what stands in this file, with no torch and no network, and
every build gives the same bytes. It knows nothing; it is wide enough for a step to take
milliseconds and for its loss to fall visibly. Its sizes are those that every method divides and
that vLLM serves on a CPU as well, whose heads have at least 32 dimensions.
"""

from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from falqon_core.files import staged_folder, write_json
from falqon_core.importers.bfloat16 import save_bfloat16, to_bfloat16

SEED = 20251024
HIDDEN = 64
INTERMEDIATE = 192
LAYERS = 2
NUM_HEADS = 2
KV_HEADS = 1
HEAD_DIM = 32
VOCABULARY = 960
# Embeddings are tied and never trained: below about 0.2 the logits could not grow large enough for
# the loss to fall.
EMBEDDING_DEVIATION = 0.2

PAD = "<|pad|>"
START = "<|im_start|>"
END = "<|im_end|>"
TINY_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' }}{% generation %}{{ message['content'] + '<|im_end|>' }}{% "
    "endgeneration %}{{ '\\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TEXT = """
Hello! How can I help you today? I would like to know when the shop is open. We are open from \
Monday to Friday, nine in the
morning until six in the evening, and on Saturday until one. Thank you very much, that is all I \
wanted to know. You are welcome,
and have a lovely day. What does it cost to send a parcel? Sending is free above forty dollars; \
below that it costs four dollars
and fifty cents. Can I return something that I do not like? Of course: you have thirty days, and \
we pay the postage back.
Please write to us with the number of your order, and we will answer within one working day. The \
number stands at the top of
the letter that came with it. Which colour would you recommend? The green one is the most \
popular, but the blue one lasts longer.
My lamp does not work any more. I am sorry to hear that. Have you tried another bulb? If it still \
stays dark, we will repair it
or give you a new one. There is a warranty of two years on everything we make, and of five years \
on the wooden parts.
Question: a train leaves at ten and travels for three hours at eighty miles an hour. How far does \
it go? Answer: three times
eighty is two hundred and forty, so the train goes 240 miles. Question: Anna has 12 apples and \
gives a third of them to Ben.
How many are left? Answer: a third of 12 is 4, and 12 - 4 = 8, so she has 8 apples left. First we \
add the numbers, then we divide
by the number of people; each of them gets the same amount. The total price is the price of one \
times how many there are.
You are a helpful assistant. Answer the following question in one or two short sentences. Write a \
short story about a dog.
Once upon a time there was a small brown dog that lived near the sea. Every morning it ran along \
the water and looked for sticks.
One day it found a bottle with a message inside, and from then on the whole village knew its \
name. Explain what this text means
in simple words. The capital of a country is the city in which its government works. Water boils \
at one hundred degrees and
freezes at zero. Plants need light, water and air to grow; animals eat plants or other animals. \
Computers follow instructions,
which are called programs. A list of numbers can be sorted from the smallest to the largest. Yes, \
that is right. No, I do not
think so, because there was something wrong with the first part. Could you tell me more about it? \
Certainly. Let me explain step
by step what happened, where it happened and who was there. Everyone should have something to eat \
before we leave, although it
might be better to wait until they come back. These things take time, but they will be finished \
within the next few weeks.
def add(first, second): return first + second
{"name": "value", "items": [1, 2, 3], "ok": true}
0123456789 10 20 30 40 50 60 70 80 90 100 200 500 1000 2024 2025 2026
"""


def build_tiny(output: Path) -> None:
    """Write the model folder `output`, whole or not at all; an existing one is replaced."""
    tokenizer = _tokenizer()
    with staged_folder(output) as folder:
        (folder / "tokenizer.json").write_text(
            tokenizer.to_str(pretty=True) + "\n", encoding="utf-8"
        )
        (folder / "chat_template.jinja").write_text(TINY_CHAT_TEMPLATE, encoding="utf-8")
        (folder / "README.md").write_text(
            "---\nlicense: apache-2.0\n---\nA small model with random weights, built by falqon.\n",
            encoding="utf-8",
        )
        for name, content in _json_files().items():
            write_json(folder / name, content)
        shapes = _shapes()
        generator = np.random.Generator(np.random.PCG64(SEED))
        save_bfloat16(
            folder / "model.safetensors",
            shapes,
            (_draw(generator, name, shape) for name, shape in shapes.items()),
        )


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True) for token in (PAD, START, END)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY, "the text is too short for the vocabulary"
    return tokenizer


def _json_files() -> dict[str, dict[str, object]]:
    ids = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": HIDDEN,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": NUM_HEADS,
            "num_key_value_heads": KV_HEADS,
            "head_dim": HEAD_DIM,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "vocab_size": VOCABULARY,
            "torch_dtype": "bfloat16",
            **ids,
        },
        "generation_config.json": {"eos_token_id": 2, "pad_token_id": 0},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END,
            "pad_token": PAD,
            "model_max_length": 2048,
            "clean_up_tokenization_spaces": False,
        },
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    q = NUM_HEADS * HEAD_DIM
    kv = KV_HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (HIDDEN,),
            f"{prefix}.self_attn.q_proj.weight": (q, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": (kv, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": (kv, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": (HIDDEN, q),
            f"{prefix}.post_attention_layernorm.weight": (HIDDEN,),
            f"{prefix}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    return shapes | {"model.norm.weight": (HIDDEN,)}


def _draw(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """bf16 bits: norms are ones, embeddings have `EMBEDDING_DEVIATION`, linears 1/sqrt(I) so that
    they keep their input's size.
    """
    if len(shape) == 1:
        values = np.ones(shape)
    else:
        deviation = EMBEDDING_DEVIATION if "embed" in name else shape[1] ** -0.5
        values = generator.normal(0.0, deviation, shape)
    return to_bfloat16(values.astype(np.float32))
