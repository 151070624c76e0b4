"""A GGUF file becomes a Hugging Face folder: bf16 safetensors, fast tokenizer, chat template,
generation config.

Reading and dequantizing is the `gguf` library's; names and config keys are mapped here for the
decoders we train (Llama and Mistral share one GGUF architecture, Qwen2, Qwen3), because
transformers' own loader reads the file three times over. llama.cpp stores q and k of Llama models
with the two halves of each rotary pair interleaved; they are put back. Mixtures of experts are
refused, files with scaled rotary embeddings, whose parameters a GGUF holds only in part, and
tensors that the model has no place for.
"""

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor, dequantize
from transformers import PreTrainedTokenizerFast

from falqon_core.contract.errors import ModelError, blamed_on_model
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.files import write_json
from falqon_core.importers.bfloat16 import save_bfloat16, to_bfloat16
from falqon_core.importers.decoder import build_decoder
from falqon_core.importers.gguf_header import check_gguf
from falqon_core.importers.gguf_names import name_of, rotary_halves
from falqon_core.importers.soundness import check_tensors, check_tokenizer

MODEL_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
MAX_RESULTS_AHEAD = 16
LICENCE_NAME = re.compile(r"[A-Za-z0-9.+-]+")


def convert_gguf(source: Path, output: Path) -> list[str]:
    """Convert into the existing, empty folder `output`; return the changes, in sentences. Raises
    `ModelError` for an unreadable or unsupported file.
    """
    try:
        check_gguf(source)
        reader = GGUFReader(source)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ModelError(f"{source.name} cannot be read as GGUF: {error}") from None
    config = _config(reader)
    dimensions = ModelDimensions.from_config(config)
    tensors = {name_of(tensor.name): tensor for tensor in reader.tensors}
    shapes = {
        name: tuple(int(size) for size in reversed(tensor.shape))
        for name, tensor in tensors.items()
    }
    write_json(output / "config.json", config)
    skeleton = build_decoder(output, dimensions)
    check_tensors(skeleton, shapes)
    if others := [tensors[name].name for name in tensors.keys() - skeleton.state_dict().keys()]:
        raise ModelError(
            f"the GGUF file has a tensor {min(others)!r} that its {config['model_type']} model has "
            "no place for; import the safetensors model"
        )
    _save_tokenizer(source, config, output)
    _drop_foreign_tokens(
        output / "tokenizer.json", len(_field(reader, "tokenizer.ggml.tokens", []))
    )
    check_tokenizer(output, dimensions.vocab_size)
    _save_weights(tensors, shapes, config, output / "model.safetensors")
    ids: dict[str, Any] = {
        key: config[key]
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if key in config
    }
    write_json(output / "generation_config.json", ids)
    licence = _field(reader, "general.license")
    if isinstance(licence, str) and LICENCE_NAME.fullmatch(licence):
        (output / "README.md").write_text(
            f"---\nlicense: {licence}\n---\nConverted from {source.name}.\n", encoding="utf-8"
        )
    types = sorted({tensor.tensor_type.name for tensor in reader.tensors})
    return [f"The weights were GGUF, {', '.join(types)}, and are bf16 now."]


def _field(reader: GGUFReader, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _config(reader: GGUFReader) -> dict[str, Any]:
    architecture = _field(reader, "general.architecture")
    names = {tensor.name for tensor in reader.tensors}
    if not isinstance(architecture, str) or architecture not in MODEL_CLASSES:
        raise ModelError(
            f"GGUF architecture {architecture!r} is not supported; supported: "
            f"{', '.join(MODEL_CLASSES)}"
        )
    if _field(reader, f"{architecture}.expert_count", 0):
        raise ModelError("mixtures of experts are not supported")
    if (
        _field(reader, f"{architecture}.rope.scaling.type", "none") != "none"
        or "rope_freqs.weight" in names
    ):
        raise ModelError(
            "the file has scaled rotary embeddings, which a GGUF describes only in part; import "
            "the safetensors model"
        )

    def value(key: str) -> Any:
        content = _field(reader, f"{architecture}.{key}")
        if content is None:
            raise ModelError(f"the GGUF file lacks {architecture}.{key}")
        return content

    def count(key: str) -> int:
        content = value(key)
        if type(content) is not int or content < 1:
            raise ModelError(f"{architecture}.{key} of the GGUF file is no count")
        return content

    heads = count("attention.head_count")
    hidden = count("embedding_length")
    embeddings = next(
        (tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None
    )
    if embeddings is None:
        raise ModelError("the GGUF file has no token embeddings")
    config = {
        "architectures": [MODEL_CLASSES[architecture]],
        "model_type": architecture,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _field(reader, f"{architecture}.attention.head_count_kv", heads),
        "head_dim": _field(reader, f"{architecture}.attention.key_length", hidden // heads),
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": _field(reader, f"{architecture}.rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in names,
        "vocab_size": int(embeddings.shape[-1]),
        "torch_dtype": "bfloat16",
    }
    if architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in names
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in names
    for key, name in {
        "bos": "bos_token_id",
        "eos": "eos_token_id",
        "padding": "pad_token_id",
    }.items():
        token = _field(reader, f"tokenizer.ggml.{key}_token_id")
        if token is not None:
            config[name] = token
    return config


def _save_weights(
    tensors: dict[str, ReaderTensor],
    shapes: dict[str, tuple[int, ...]],
    config: dict[str, Any],
    path: Path,
) -> None:
    with ThreadPoolExecutor() as pool:
        save_bfloat16(
            path,
            shapes,
            _in_order(
                pool, lambda name: _bits(name, tensors[name], shapes[name], config), list(tensors)
            ),
        )


def _in_order(
    pool: ThreadPoolExecutor, convert: Callable[[str], np.ndarray], names: list[str]
) -> Iterator[np.ndarray]:
    """Do as `pool.map` does, at most `MAX_RESULTS_AHEAD` results ahead of the writer."""
    for start in range(0, len(names), MAX_RESULTS_AHEAD):
        yield from pool.map(convert, names[start : start + MAX_RESULTS_AHEAD])


def _bits(
    name: str, tensor: ReaderTensor, shape: tuple[int, ...], config: dict[str, Any]
) -> np.ndarray:
    try:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(shape)
    except NotImplementedError:
        raise ModelError(
            f"{tensor.name} is of type {tensor.tensor_type.name}, which cannot be converted"
        ) from None
    if config["model_type"] == "llama":
        if ".q_proj." in name:
            values = rotary_halves(values, config["num_attention_heads"])
        elif ".k_proj." in name:
            values = rotary_halves(values, config["num_key_value_heads"])
    return to_bfloat16(values)


def _save_tokenizer(source: Path, config: dict[str, Any], output: Path) -> None:
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(source.parent, gguf_file=source.name)
    except Exception as error:  # External tokens may raise any error.
        raise blamed_on_model("the tokenizer of the GGUF file cannot be read", error) from error
    tokenizer.model_max_length = config["max_position_embeddings"]
    tokenizer.save_pretrained(output)


def _drop_foreign_tokens(path: Path, num_tokens: int) -> None:
    """Drop tokens that transformers adds to the file's (`<|endoftext|>`): none has an embedding."""
    content = json.loads(path.read_bytes())
    own = [token for token in content["added_tokens"] if token["id"] < num_tokens]
    if len(own) < len(content["added_tokens"]):
        write_json(path, content | {"added_tokens": own})
