import hashlib
import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from falqon_core.contract.model_folder import check_model_folder
from falqon_core.estimate.dimensions import ModelDimensions

BUILD = (
    "import sys; from pathlib import Path; from falqon_core.importers.tiny import build_tiny; "
    "build_tiny(Path(sys.argv[1])); "
)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_every_build_gives_the_same_bytes_and_needs_no_torch(
    tmp_path: Path, tiny_folder: Path
) -> None:
    for seed in ("1", "2"):
        subprocess.run(
            [
                sys.executable,
                "-c",
                BUILD + "assert 'torch' not in sys.modules",
                str(tmp_path / seed),
            ],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[3])},
            check=True,
        )

    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tiny_folder)
    assert sum(path.stat().st_size for path in tiny_folder.iterdir()) < 5_000_000


def test_the_tiny_model_has_sizes_that_every_method_divides_and_vllm_serves(
    tiny_folder: Path,
) -> None:
    dimensions = ModelDimensions.from_config(check_model_folder(tiny_folder))

    assert all(size % 32 == 0 for shape in dimensions.linear_shapes.values() for size in shape)
    assert dimensions.intermediate_size % 64 == dimensions.hidden_size % 64 == 0
    assert dimensions.vocab_size % 16 == 0
    assert dimensions.head_dim >= 32


def test_transformers_loads_and_runs_the_tiny_model(tiny_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where is the shop? 🙂"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )

    answer = model.generate(**prompt, max_new_tokens=4, do_sample=False)

    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert len(tokenizer) == model.config.vocab_size
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert answer.shape[1] > prompt["input_ids"].shape[1]


def test_any_text_survives_its_tokenizer(tiny_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    for text in ("Hello there,\n\n  world", "für 日本 🙂", json.dumps({"a": [1, 2]})):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
