"""GGUF files of models that nobody has trained: base models, whose files are a stranger's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader, TokenType
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma4TextConfig,
    Glm4MoeConfig,
    GptOssConfig,
    Lfm2Config,
    LlamaConfig,
    Ministral3Config,
    MistralConfig,
    Olmo3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3_5MoeTextConfig,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from falqon_core.contract.formats import FormatUnavailable
from falqon_core.estimate.mixers import HYBRIDS
from falqon_core.export.gguf import write_gguf
from falqon_core.export.gguf_gemma import BYTE_TOKENS
from falqon_core.importers.gguf import convert_gguf
from tests.falqon_core.families.models import SIZES, YARN, write_model
from tests.support.llama_cpp import ask_llama_cpp

Tensors = dict[str, Tensor]


def save(tensors: Tensors, path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})


def in_dtype(dtype: torch.dtype) -> Callable[[Path, Tensors], None]:
    def write(folder: Path, tensors: Tensors) -> None:
        converted = {name: value.to(dtype) for name, value in tensors.items()}
        save(converted, folder / "model.safetensors")

    return write


def with_frequencies(folder: Path, tensors: Tensors) -> None:
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    save(tensors | frequencies, folder / "model.safetensors")


def with_tied_head(folder: Path, tensors: Tensors) -> None:
    head = tensors["model.embed_tokens.weight"].clone()
    save(tensors | {"lm_head.weight": head}, folder / "model.safetensors")


def with_second_layout(folder: Path, tensors: Tensors) -> None:
    save({"layers.0.attention.wk.weight": torch.ones(4, 4)}, folder / "consolidated.safetensors")


def without_prefix(folder: Path, tensors: Tensors) -> None:
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    save(bare, folder / "model.safetensors")


PLAIN = {
    "fp16": in_dtype(torch.float16),
    "fp32": in_dtype(torch.float32),
    "frequencies": with_frequencies,
    "tied head": with_tied_head,
    "second layout": with_second_layout,
    "bare decoder": without_prefix,
}


@pytest.mark.parametrize("kind", PLAIN)
def test_gguf_of_a_base_model_holds_what_transformers_loads(
    kind: str, tiny_folder: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(tiny_folder, tmp_path / "source"))
    PLAIN[kind](source, load_file(source / "model.safetensors"))
    expected = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    for name in ("gguf", "back"):
        (tmp_path / name).mkdir()

    write_gguf(source, tmp_path / "gguf", "tiny")

    convert_gguf(tmp_path / "gguf/model.gguf", tmp_path / "back")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype="auto").state_dict()
    assert back.keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(back[name], value), name


def certain_tokens(model: PreTrainedModel, prompt: dict[str, Tensor]) -> list[int]:
    """Return the tokens of an answer up to one that rounding could decide."""
    output = model.generate(
        **prompt,
        max_new_tokens=8,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    tokens: list[int] = []
    for scores in output.scores:
        best, second = scores[0].topk(2).values
        if best - second < 0.1 * scores[0].std():
            break
        tokens.append(int(scores[0].argmax()))
    return tokens


HYBRID_SIZES = SIZES | {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.3,
}
MIXTURE_SIZES = HYBRID_SIZES | {"initializer_range": 0.2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
GPT_OSS = MIXTURE_SIZES | {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "head_dim": 32,
    "sliding_window": 7,
    "rope_parameters": YARN,
}
GEMMA_4 = MIXTURE_SIZES | {
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 7,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "hidden_size_per_layer_input": 0,
    "tie_word_embeddings": True,
}
QUESTIONS = (
    "What does it cost to send a parcel?",
    "Count the kettles.",
    "Who is Anna?",
    "When is it open?",
    "I lost my coins.",
)
HEADS = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}


def name_layers_as_published(path: Path) -> None:
    described = json.loads(path.read_text())
    for key in ("layer_types", "rope_parameters", "linear_conv_kernel_dim", "conv_L_cache"):
        described.pop(key, None)
    described |= {"full_attention_interval": 2, "full_attn_idxs": [1, 3]}
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**MIXTURE_SIZES),
        MistralConfig(**MIXTURE_SIZES, head_dim=32, sliding_window=None),
        Qwen2Config(**MIXTURE_SIZES),
        Qwen3Config(**MIXTURE_SIZES, head_dim=32),
        Lfm2Config(
            **HYBRID_SIZES, layer_types=["conv", "full_attention"] * 2, block_multiple_of=16
        ),
        Qwen3_5TextConfig(
            **HYBRID_SIZES,
            **HEADS,
            head_dim=32,
            layer_types=["linear_attention", "full_attention"] * 2,
            tie_word_embeddings=True,
        ),
        Qwen3_5MoeTextConfig(
            **HYBRID_SIZES,
            **HEADS,
            **EXPERTS,
            head_dim=32,
            layer_types=["linear_attention", "full_attention"] * 2,
            shared_expert_intermediate_size=64,
        ),
        Qwen3MoeConfig(**MIXTURE_SIZES, **EXPERTS, head_dim=32, norm_topk_prob=True),
        Glm4MoeConfig(
            **MIXTURE_SIZES,
            **EXPERTS,
            head_dim=32,
            n_routed_experts=4,
            first_k_dense_replace=1,
            use_qk_norm=True,
            routed_scaling_factor=1.5,
            attention_bias=True,
        ),
        GptOssConfig(**GPT_OSS),
        GptOssConfig(**GPT_OSS | {"intermediate_size": 64}, expert_format="mxfp4"),
        Gemma4TextConfig(
            **GEMMA_4 | {"hidden_size_per_layer_input": 32},
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
            vocab_size_per_layer_input=960,
            final_logit_softcapping=4.0,
        ),
        Gemma4TextConfig(**GEMMA_4, num_global_key_value_heads=1, attention_k_eq_v=True),
        Olmo3Config(
            **MIXTURE_SIZES,
            sliding_window=7,
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": YARN,
            },
        ),
        Ministral3Config(
            **MIXTURE_SIZES,
            head_dim=32,
            rope_parameters=YARN
            | {"llama_4_scaling_beta": 0.5, "mscale": 1.0, "mscale_all_dim": 1.0},
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_llama_cpp_answers_as_transformers_does(
    config: PreTrainedConfig, tiny_folder: Path, tmp_path: Path
) -> None:
    """Heads and widths are those that llama.cpp multiplies."""
    write_model(config, tiny_folder, tmp_path / "model")
    if config.model_type in HYBRIDS:
        name_layers_as_published(tmp_path / "model/config.json")
    check_answers(tmp_path)


def check_answers(tmp_path: Path) -> None:
    """Compare the answers of the folder `model`, by transformers and by llama.cpp."""
    (tmp_path / "gguf").mkdir()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    answers = {}
    for text in QUESTIONS:
        messages = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        answers[text] = certain_tokens(model, prompt)
    text = max(answers, key=lambda text: len(answers[text]))
    answer = answers[text]
    question = [{"role": "user", "content": text}]
    assert len(answer) >= 3

    write_gguf(tmp_path / "model", tmp_path / "gguf", "tiny")

    said = ask_llama_cpp(tmp_path / "gguf/model.gguf", question, len(answer))
    assert said.strip() == tokenizer.decode(answer).strip()


def test_llama_cpp_reads_gemmas_tokenizer_as_transformers_does(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Sentences are pieces whose spaces are marks; runs of spaces are tokens of their own, and what
    is in no piece is bytes.
    """
    write_model(Gemma4TextConfig(**GEMMA_4), tiny_folder, tmp_path / "model")
    template = AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    # llama.cpp has every text of Gemma 4 begin so.
    tokenizer = sentence_tokenizer("{{ bos_token }}" + template)
    tokenizer.save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    # Parts of a character are no answer, and neither are numbers that the tokenizer does not use.
    weights["model.embed_tokens.weight"][tokenizer.convert_tokens_to_ids(sorted(BYTE_TOKENS))] = 0
    weights["model.embed_tokens.weight"][len(tokenizer) :] = 0
    save(weights, tmp_path / "model/model.safetensors")
    check_answers(tmp_path)
    reader = GGUFReader(tmp_path / "gguf/model.gguf")
    fields = {
        key: reader.get_field(f"tokenizer.ggml.{key}") for key in ("model", "tokens", "token_type")
    }
    model, tokens, types = (field.contents() for field in fields.values() if field is not None)
    assert model == "gemma4"
    assert types[tokens.index("<0x7F>")] == TokenType.BYTE
    assert types[tokens.index("<eos>")] == TokenType.CONTROL
    assert types[tokens.index("   ")] == TokenType.USER_DEFINED


def sentence_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Return a small tokenizer of Gemma's kind."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trained = Tokenizer(models.BPE())
    spaces = normalizers.Replace(" ", "▁")
    trained.normalizer = spaces
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False)
    trained.train_from_iterator([*QUESTIONS, template], trainer)
    learned = json.loads(trained.to_str())["model"]
    texts = [*special, *sorted(BYTE_TOKENS), *learned["vocab"]]
    vocab = {text: number for number, text in enumerate(texts)}
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    tokenizer.add_tokens(["▁▁▁"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=template,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    )


@pytest.mark.parametrize(
    "change",
    [{"layer_types": ["full_attention", "linear_attention"] * 2}, {"linear_key_head_dim": 16}],
)
def test_delta_nets_that_llama_cpp_does_not_have_are_refused(
    change: dict[str, Any], tiny_folder: Path, tmp_path: Path
) -> None:
    layers = {"layer_types": ["linear_attention", "full_attention"] * 2}
    config = Qwen3_5TextConfig(**HYBRID_SIZES | HEADS | layers | change, head_dim=32)
    write_model(config, tiny_folder, tmp_path / "model")
    (tmp_path / "gguf").mkdir()
    with pytest.raises(FormatUnavailable, match="has delta nets only in all but"):
        write_gguf(tmp_path / "model", tmp_path / "gguf", "hybrid")
