"""Small GGUF files are written with the `gguf` library, imported by us and loaded by transformers;
both must agree bit for bit.
"""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from falqon_core.contract.errors import ModelError
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.importers.importer import import_model
from falqon_core.importers.tiny import TINY_CHAT_TEMPLATE

HIDDEN = 64
HEADS = 4
KV_HEADS = 2
INTERMEDIATE = 96
LAYERS = 2
HEAD_DIM = {
    "llama": 16,
    "qwen2": 16,
    "qwen3": 128,
    "gpt2": 16,
}  # transformers' own loader knows no other for Qwen3


@pytest.fixture
def vocabulary(tiny_folder: Path) -> tuple[list[str], list[str]]:
    return vocabulary_of(tiny_folder)


def vocabulary_of(folder: Path) -> tuple[list[str], list[str]]:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tokens, [" ".join(pair) for pair in model["merges"]]


def write_gguf(
    path: Path,
    architecture: str,
    vocabulary: tuple[list[str], list[str]],
    *,
    tied: bool = True,
    scaled_rope: bool = False,
    others: dict[str, np.ndarray] | None = None,
) -> Path:
    tokens, merges = vocabulary
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_license("apache-2.0")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    if architecture == "qwen3":
        writer.add_key_length(HEAD_DIM[architecture])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50000.0)
    if scaled_rope:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if token.startswith("<|") else gguf.TokenType.NORMAL
            for token in tokens
        ]
    )
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TINY_CHAT_TEMPLATE)
    for name, values in (tensors(architecture, len(tokens), tied) | (others or {})).items():
        if values.ndim == 2:
            writer.add_tensor(
                name,
                gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0),
                raw_dtype=gguf.GGMLQuantizationType.Q8_0,
            )
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tensors(architecture: str, vocabulary: int, tied: bool) -> dict[str, np.ndarray]:
    q = HEADS * HEAD_DIM[architecture]
    kv = KV_HEADS * HEAD_DIM[architecture]
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    if not tied:
        shapes["output.weight"] = (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        sizes = {
            "attn_q": (q, HIDDEN),
            "attn_k": (kv, HIDDEN),
            "attn_v": (kv, HIDDEN),
            "attn_output": (HIDDEN, q),
        }
        sizes |= {
            "ffn_gate": (INTERMEDIATE, HIDDEN),
            "ffn_up": (INTERMEDIATE, HIDDEN),
            "ffn_down": (HIDDEN, INTERMEDIATE),
        }
        shapes |= {f"blk.{layer}.{name}.weight": size for name, size in sizes.items()}
        shapes |= {f"blk.{layer}.{name}.weight": (HIDDEN,) for name in ("attn_norm", "ffn_norm")}
        if architecture == "qwen2":
            shapes |= {
                f"blk.{layer}.attn_{name}.bias": (size,)
                for name, size in (("q", q), ("k", kv), ("v", kv))
            }
        if architecture == "qwen3":
            shapes |= {
                f"blk.{layer}.attn_{name}_norm.weight": (HEAD_DIM[architecture],)
                for name in ("q", "k")
            }
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("architecture", "tied"), [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False)]
)
def test_transformers_reads_the_same_model_from_both(
    architecture: str, tied: bool, tmp_path: Path, vocabulary: tuple[list[str], list[str]]
) -> None:
    source = write_gguf(tmp_path / "model.gguf", architecture, vocabulary, tied=tied)

    conversions = import_model(str(source), tmp_path / "model")

    assert conversions == ["The weights were GGUF, F32, Q8_0, and are bf16 now."]
    expected = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    imported, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(imported) is type(expected)
    assert imported.dtype == torch.bfloat16
    for (name, mine), (_, theirs) in zip(
        imported.state_dict().items(), expected.state_dict().items(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    for key in (
        "rope_parameters",
        "rms_norm_eps",
        "tie_word_embeddings",
        "eos_token_id",
        "pad_token_id",
        "max_position_embeddings",
    ):
        assert getattr(imported.config, key) == getattr(expected.config, key), key
    ModelDimensions.from_config(json.loads((tmp_path / "model" / "config.json").read_text()))


def feed_forward_biases(layers: int) -> dict[str, np.ndarray]:
    """Return a bias for each linear of the MLP of the first `layers`."""
    sizes = {"ffn_gate": INTERMEDIATE, "ffn_up": INTERMEDIATE, "ffn_down": HIDDEN}
    generator = np.random.default_rng(1)
    return {
        f"blk.{layer}.{name}.bias": generator.normal(0, 0.3, size).astype(np.float32)
        for layer in range(layers)
        for name, size in sizes.items()
    }


def test_biases_of_the_mlp_of_a_llama_model_are_loaded(
    tmp_path: Path, vocabulary: tuple[list[str], list[str]]
) -> None:
    biases = feed_forward_biases(LAYERS)
    source = write_gguf(tmp_path / "model.gguf", "llama", vocabulary, others=biases)

    import_model(str(source), tmp_path / "model")

    imported, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for part in ("gate", "up", "down"):
        loaded = imported.get_submodule(f"model.layers.1.mlp.{part}_proj").bias
        expected = torch.from_numpy(biases[f"blk.1.ffn_{part}.bias"]).bfloat16()
        assert torch.equal(loaded, expected), part


@pytest.mark.parametrize(
    ("architecture", "name", "size"),
    [
        ("qwen2", "blk.1.ffn_down.bias", HIDDEN),
        ("qwen3", "blk.0.attn_q.bias", HEADS * HEAD_DIM["qwen3"]),
        ("llama", "blk.1.ffn_down.bias", HIDDEN),
        ("llama", "blk.1.attn_q_norm.weight", HEAD_DIM["llama"]),
        ("llama", "output_norm.bias", HIDDEN),
        ("llama", f"blk.{LAYERS}.attn_norm.weight", HIDDEN),
    ],
)
def test_a_tensor_that_the_model_has_no_place_for_is_refused(
    architecture: str,
    name: str,
    size: int,
    tmp_path: Path,
    vocabulary: tuple[list[str], list[str]],
) -> None:
    others = {name: np.ones(size, np.float32)}
    source = write_gguf(tmp_path / "model.gguf", architecture, vocabulary, others=others)

    with pytest.raises(ModelError, match=f"tensor '{name}' that its {architecture} model has no"):
        import_model(str(source), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_tokenizer_and_its_template_survive(
    tmp_path: Path, tiny_folder: Path, vocabulary: tuple[list[str], list[str]]
) -> None:
    import_model(str(write_gguf(tmp_path / "model.gguf", "llama", vocabulary)), tmp_path / "model")

    imported = AutoTokenizer.from_pretrained(tmp_path / "model")
    original = AutoTokenizer.from_pretrained(tiny_folder)
    chat = [
        {"role": "user", "content": "Where is the shop?"},
        {"role": "assistant", "content": "By the sea, I'm told: 12 Main Street."},
    ]
    assert (
        imported.apply_chat_template(chat, return_dict=True)["input_ids"]
        == original.apply_chat_template(chat, return_dict=True)["input_ids"]
    )
    assert (imported.bos_token, imported.eos_token, imported.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|pad|>",
    )
    assert json.loads((tmp_path / "model" / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    assert (
        (tmp_path / "model" / "README.md").read_text().startswith("---\nlicense: apache-2.0\n---")
    )


@pytest.mark.parametrize(
    ("architecture", "scaled_rope", "match"),
    [
        ("gpt2", False, "architecture 'gpt2' is not supported"),
        ("llama", True, "scaled rotary embeddings"),
    ],
)
def test_a_gguf_file_that_cannot_be_converted_is_refused(
    architecture: str,
    scaled_rope: bool,
    match: str,
    tmp_path: Path,
    vocabulary: tuple[list[str], list[str]],
) -> None:
    source = write_gguf(tmp_path / "model.gguf", architecture, vocabulary, scaled_rope=scaled_rope)

    with pytest.raises(ModelError, match=match):
        import_model(str(source), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"not a gguf file at all, but long enough to have a header"]
)
def test_a_file_that_is_no_gguf_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)

    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        import_model(str(tmp_path / "model.gguf"), tmp_path / "model")
