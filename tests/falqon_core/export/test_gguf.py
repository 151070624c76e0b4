"""GGUF files of models that nobody has trained: base models, whose files are a stranger's."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Lfm2Config

from falqon_core.export.gguf import write_gguf
from falqon_core.importers.gguf import convert_gguf
from tests.falqon_core.families.models import SIZES, write_model

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


def test_llama_cpp_answers_from_a_hybrid_as_transformers_does(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Heads and widths are those that llama.cpp multiplies; weights are far apart, so that rounding
    decides no token.
    """
    config = Lfm2Config(
        **SIZES
        | {
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "initializer_range": 0.3,
        },
        layer_types=["conv", "full_attention"] * 2,
        block_multiple_of=16,
    )
    write_model(config, tiny_folder, tmp_path / "model")
    (tmp_path / "gguf").mkdir()
    question = [{"role": "user", "content": "What does it cost to send a parcel?"}]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    prompt = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=6, do_sample=False)
    expected = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])

    write_gguf(tmp_path / "model", tmp_path / "gguf", "hybrid")

    program = Path(__file__).with_name("ask_llama_cpp.py")
    completed = subprocess.run(
        [sys.executable, program, tmp_path / "gguf/model.gguf", json.dumps(question), "6"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    assert json.loads(completed.stdout).strip() == expected.strip()
