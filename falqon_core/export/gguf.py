"""A model as one GGUF file: matrices in bf16 or in llama.cpp's blocks, vectors in fp32, tokenizer
and chat template inside.

Writing is the `gguf` library's; names are those that `importers.gguf` reads, the other way round.
llama.cpp wants q and k of Llama models with the two halves of each rotary pair interleaved. Which
splitting of text into words llama.cpp has to imitate is told by a name; it is found by the
tokenizer's own pattern, and a pattern that no name is known for is refused, since its tokens would
differ silently. Tokenizers that are not byte-level BPE, scaled rotary embeddings and sliding
windows are refused. A folder in FP8, or in any plain dtype, becomes bf16, or is rounded to blocks
(`gguf_blocks`); Q4_0, Q4_1 and Q8_0 keep the codes of who trained in them.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from gguf import (
    GGML_QUANT_VERSION,
    GGMLQuantizationType,
    GGUFType,
    GGUFWriter,
    Keys,
    LlamaFileType,
    RopeScalingType,
    TokenType,
)
from transformers import AutoConfig, PreTrainedTokenizerBase

from falqon_core.contract.config import Recipe
from falqon_core.contract.formats import (
    EXACT_GGUF,
    QUANTIZED_GGUF,
    FormatName,
    FormatUnavailable,
    QuantizedGguf,
    check_format,
)
from falqon_core.contract.gguf_support import GGUF_ARCHITECTURES, WINDOW_PATTERNS, rotation_of
from falqon_core.contract.model_folder import EXPERT_FORMAT, MIXTURES, MXFP4, read_config
from falqon_core.contract.quantization_config import weights_of
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.mixers import HYBRIDS
from falqon_core.export import gguf_delta_net, gguf_experts, gguf_gemma
from falqon_core.export.block_forms import ggml_block_bytes
from falqon_core.export.gguf_blocks import (
    FILE_TYPES,
    TRAINED_BLOCKS,
    block_types,
    quantize_blocks,
)
from falqon_core.export.reading import decoder_weights, load_blocks
from falqon_core.importers.gguf_names import LAYER_NAMES, OUTER_NAMES
from falqon_core.importers.mxfp4 import ggml_blocks
from falqon_core.importers.tokenizer import load_tokenizer

CONVOLUTION = "conv.conv"  # The short one of LFM2.
IN_FP32 = (f".{CONVOLUTION}.weight", ".conv1d.weight", ".bias", *gguf_experts.ROUTERS)
# Names of LFM2's modules by those of llama.cpp.
LFM2_NAMES = {
    "token_embd_norm": "model.embedding_norm",
    "attn_norm": "operator_norm",
    "ffn_norm": "ffn_norm",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
    "shortconv.conv": CONVOLUTION,
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.out_proj": "conv.out_proj",
}
GGUF_NAMES = {ours: theirs for theirs, ours in (OUTER_NAMES | LAYER_NAMES).items()}
GGUF_NAMES |= {ours: theirs for theirs, ours in LFM2_NAMES.items()}
GGUF_NAMES["post_feedforward_layernorm"] = "post_ffw_norm"
# llama.cpp calls the second norm so in some families, whatever it is of.
POST_NORMS = {"post_attention_layernorm": "post_attention_norm"}
POST_NORMED = (gguf_gemma.FAMILY, "glm4_moe", "gpt_oss", "olmo3", *gguf_delta_net.FAMILIES)
PARAMETERS = (
    {"self_attn.sinks": "attn_sinks.weight"}
    | gguf_delta_net.PARAMETERS
    | gguf_experts.PARAMETERS
    | gguf_gemma.PARAMETERS
)
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {_LETTERS + r"|\p{N}" + _REST: "qwen2", _LETTERS + r"|\p{N}{1,3}" + _REST: "llama-bpe"}
SPLITS[
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
] = "qwen35"
# gpt-oss, and Ministral 3: words by case, with contractions or without.
_CASES = tuple(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
    + upper
    + r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    + lower
    for upper, lower in ("*+", "+*")
)
_CONTRACTED = "|".join(case + r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?" for case in _CASES)
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS[_CONTRACTED + r"|\p{N}{1,3}" + _SIGNS] = "gpt-4o"
SPLITS["|".join(_CASES) + r"|\p{N}" + _SIGNS] = "tekken"


def write_gguf(
    model: Path,
    folder: Path,
    name: str,
    format: QuantizedGguf | Literal["gguf", "gguf_q4_0"] = "gguf",
) -> None:
    """Write a trained folder, or a plain one, as `model.gguf` into an existing folder. Codes that
    the format itself has are written as they are. Raises `FormatUnavailable` and `ModelError`.
    """
    config = read_config(model)
    trained = weights_of(config) or "fp8"
    check_format(format, Recipe(weights=trained), config)
    tokenizer = load_tokenizer(model)
    weights = decoder_weights(model)
    if (trained == "q4_0" or trained == "q8_0") and format == EXACT_GGUF[trained]:
        for weight, blocks in load_blocks(model).items():
            weights[weight] = ggml_block_bytes(trained, *blocks)
    write_gguf_file(folder / "model.gguf", name, config, tokenizer, weights, format)


def write_gguf_file(
    path: Path,
    name: str,
    config: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    tensors: dict[str, torch.Tensor],
    format: FormatName,
) -> None:
    """`config` is that of a model that has a GGUF (`contract.formats`). `tensors` by the names of a
    plain model, in bf16, or trained matrices in the blocks of `format`, uint8 [O, bytes of a row];
    they are taken out one by one. Raises `FormatUnavailable` for a tokenizer that llama.cpp does
    not have.
    """
    if (kind := config["model_type"]) in (*HYBRIDS, *MIXTURES, gguf_gemma.FAMILY):
        # Published configs leave out what transformers takes for granted.
        config = AutoConfig.for_model(**config).to_dict()
    writer = GGUFWriter(path, GGUF_ARCHITECTURES[kind])
    writer.add_name(name)
    has_mxfp4 = config.get(EXPERT_FORMAT) == MXFP4
    writer.add_file_type(LlamaFileType.MOSTLY_MXFP4_MOE if has_mxfp4 else FILE_TYPES[format])
    if has_mxfp4 or format != "gguf":
        writer.add_quantization_version(GGML_QUANT_VERSION)
    _add_dimensions(writer, config)
    _add_tokenizer(writer, tokenizer, config)
    named = dict(_renamed(name, tensors.pop(name), config) for name in list(tensors))
    if kind == gguf_gemma.FAMILY:
        named[gguf_gemma.ROTATED] = gguf_gemma.rotated(config)
    _add_tensors(writer, named, format, has_mxfp4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_gguf_adapter_file(
    path: Path,
    name: str,
    config: dict[str, Any],
    alpha: float,
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """Write A and B in bf16, as the weights that they are added to. `config` is that of the base
    model; `factors` are A [r, I] and B [O, r], fp32, by the full names of their linears.
    """
    writer = GGUFWriter(path, GGUF_ARCHITECTURES[config["model_type"]])
    writer.add_type(GGUFType.ADAPTER)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, float(alpha))
    writer.add_name(name)
    for linear, (a, b) in factors.items():
        # Rows of a linear, and so of B, stand in llama.cpp's order.
        gguf_name, b = _renamed(f"{linear}.weight", b, config)
        for letter, factor in (("a", a), ("b", b)):
            values = factor.bfloat16().contiguous().view(torch.uint8).numpy()
            name = f"{gguf_name}.lora_{letter}"
            writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_dimensions(writer: GGUFWriter, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_head_count(heads)
    writer.add_layer_norm_rms_eps(config.get("norm_eps") or config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    if config["model_type"] == gguf_gemma.FAMILY:
        gguf_gemma.add_layers(writer, config)
        return
    writer.add_feed_forward_length(ModelDimensions.from_config(config).intermediate_size)
    kv_heads = config.get("num_key_value_heads") or heads
    if config["model_type"] == "lfm2":
        # None in a layer with a convolution.
        types = config["layer_types"]
        writer.add_head_count_kv([0 if kind == HYBRIDS["lfm2"] else kv_heads for kind in types])
        writer.add_shortconv_l_cache(config["conv_L_cache"])
    else:
        writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    rope = config.get("rope_parameters") or {}
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1.0)))
    if config["model_type"] in gguf_delta_net.FAMILIES:
        gguf_delta_net.add_delta_nets(writer, config)
    if config["model_type"] in MIXTURES:
        gguf_experts.add_experts(writer, config)
    _add_rotation(writer, config)
    if config["model_type"] in WINDOW_PATTERNS:
        writer.add_sliding_window(config["sliding_window"])


def _add_rotation(writer: GGUFWriter, config: dict[str, Any]) -> None:
    rope = rotation_of(config)
    writer.add_rope_freq_base(config.get("rope_theta") or rope.get("rope_theta", 10000.0))
    if rope.get("rope_type") != "yarn":
        return
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(
        rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
    )
    writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast") or 32.0)
    writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow") or 1.0)
    if (log_mul := rope.get("mscale_all_dim")) is not None:
        writer.add_rope_scaling_yarn_log_mul(log_mul)
    if (beta := rope.get("llama_4_scaling_beta")) is not None:
        writer.add_attn_temperature_scale(beta)


def _add_tokenizer(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, config: dict[str, Any]
) -> None:
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    if config["model_type"] == gguf_gemma.FAMILY and described["model"].get("byte_fallback"):
        writer.add_tokenizer_model(gguf_gemma.TOKENIZER)
        writer.add_add_space_prefix(False)
        tokens, types = _tokens(described, config["vocab_size"], gguf_gemma.token_type)
        tokens = list(map(gguf_gemma.shown, tokens, types))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_pre_tokenizer(described))
        tokens, types = _tokens(described, config["vocab_size"], _token_type)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(
        [pair if isinstance(pair, str) else " ".join(pair) for pair in described["model"]["merges"]]
    )
    for token_id, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
    ):
        if token_id is not None:
            add(token_id)
    writer.add_add_bos_token(
        tokenizer.bos_token_id is not None
        and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    )
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        templates = [{"name": name, "template": text} for name, text in templates.items()]
    if templates is not None:
        writer.add_chat_template(templates)
    if names := writer.kv_data[0].get("tokenizer.chat_templates"):
        names.value.sort()  # gguf takes them from a set, whose order is another in each process.


def _pre_tokenizer(described: dict[str, Any]) -> str:
    """Return llama.cpp's name of this tokenizer's splitting of text into words.

    Raises `FormatUnavailable`.
    """
    pre = described["pre_tokenizer"] or {}
    parts = pre.get("pretokenizers", [pre])
    match [part.get("type") for part in parts]:
        case ["ByteLevel"] if parts[0]["use_regex"]:
            return "gpt-2"
        case ["Digits", "ByteLevel"] if parts[0]["individual_digits"] and parts[1]["use_regex"]:
            return "smollm"
        case ["Split", "ByteLevel"] if (
            name := SPLITS.get(parts[0]["pattern"].get("Regex", ""))
        ) is not None:
            return name
    raise FormatUnavailable(
        "format: the GGUF export does not know how this model's tokenizer splits text; take bf16"
    )


def _tokens(
    described: dict[str, Any], size: int, token_type: Callable[[str, bool, bool], TokenType]
) -> tuple[list[str], list[int]]:
    """-> (texts by id, `TokenType`s); ids that the tokenizer does not use are filled up.
    `token_type` takes a text, and whether it is an added token and a special one.
    """
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = [int(TokenType.UNUSED)] * size
    for text, index in described["model"]["vocab"].items():
        tokens[index] = text
        types[index] = int(token_type(text, False, False))
    for added in described["added_tokens"]:
        if added["id"] >= size:  # A token of the tokenizer's class, which no text has.
            continue
        tokens[added["id"]] = added["content"]
        types[added["id"]] = int(token_type(added["content"], True, added["special"]))
    return tokens, types


def _token_type(_: str, is_added: bool, is_special: bool) -> TokenType:
    if not is_added:
        return TokenType.NORMAL
    return TokenType.CONTROL if is_special else TokenType.USER_DEFINED


def _renamed(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> tuple[str, torch.Tensor]:
    """Return llama.cpp's name of a tensor, and its values in llama.cpp's order; what is written in
    fp32 is in fp32.
    """
    if config["model_type"] in ("llama", "ministral3", "mistral"):
        if ".q_proj." in name:
            tensor = _rotary_pairs(tensor, config["num_attention_heads"])
        elif ".k_proj." in name:
            tensor = _rotary_pairs(
                tensor, config.get("num_key_value_heads") or config["num_attention_heads"]
            )
    names = GGUF_NAMES | gguf_experts.NAMES | gguf_gemma.NAMES
    if config["model_type"] in POST_NORMED:
        names |= POST_NORMS
    if config["model_type"] in gguf_delta_net.FAMILIES:
        names |= gguf_delta_net.NAMES
        tensor = gguf_delta_net.convert_tensor(name, tensor, config)
    if tensor.ndim == 1 or name.endswith(IN_FP32):
        # A convolution has a row for each channel, [C, 1, K], and a gate has one row.
        tensor = tensor.squeeze().float()
    return _gguf_name(name, names), tensor


def _add_tensors(
    writer: GGUFWriter, tensors: dict[str, torch.Tensor], format: FormatName, has_mxfp4: bool
) -> None:
    matrices = {name: each.shape for name, each in tensors.items() if not _is_fp32(each)}
    has_blocks = any(each.dtype == torch.uint8 for each in tensors.values())
    blocks = {}
    if format in QUANTIZED_GGUF and not has_blocks:
        blocks = block_types(matrices, format)
    for name in list(tensors):
        tensor = tensors.pop(name)
        if name in blocks:
            values = quantize_blocks(tensor, blocks[name])
            writer.add_tensor(name, values, raw_dtype=blocks[name])
        elif tensor.ndim == 3 and has_mxfp4:
            experts = torch.stack([ggml_blocks(expert.contiguous()) for expert in tensor])
            writer.add_tensor(name, experts.numpy(), raw_dtype=GGMLQuantizationType.MXFP4)
        elif name in matrices:
            is_trained = tensor.dtype == torch.uint8
            writer.add_tensor(
                name,
                tensor.contiguous().view(torch.uint8).numpy(),
                raw_dtype=TRAINED_BLOCKS[format] if is_trained else GGMLQuantizationType.BF16,
            )
        else:
            writer.add_tensor(name, tensor.numpy())


def _is_fp32(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.float32


def _gguf_name(name: str, names: Mapping[str, str]) -> str:
    module, _, kind = name.rpartition(".")
    if module in names:
        return f"{names[module]}.{kind}"
    layer, _, part = module.removeprefix("model.layers.").partition(".")
    parameter = PARAMETERS.get(f"{part}.{kind}")
    return f"blk.{layer}.{parameter or f'{names[part]}.{kind}'}"


def _rotary_pairs(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Order the rows of each head from halves (0, 0, ..., 1, 1, ...) to interleaved pairs (0, 1, 0,
    1, ...); [O, I] or [O].
    """
    return values.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(values.shape)
