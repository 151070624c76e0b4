"""The other formats of one trained model, read by those who read them elsewhere: PEFT,
transformers, gguf and llama.cpp.
"""

import json
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from gguf import GGUFReader
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CompressedTensorsConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import ModelError
from falqon_core.contract.formats import ExactFormat, FormatUnavailable, check_format
from falqon_core.contract.messages import ExitCode
from falqon_core.export.formats import write_format
from falqon_core.export.gguf import write_gguf
from falqon_core.export.peft import convert_gguf_adapter
from falqon_core.importers.gguf import convert_gguf
from falqon_core.ops.quantize import quantize_rows
from tests.falqon_core.train import trainings
from tests.support.llama_cpp import ask_llama_cpp

# PEFT asks transformers by a name that is going to change.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
QUESTION = [{"role": "user", "content": "Question 3?"}]
RECIPE = {
    "rank": 16,
    "alpha": 32.0,
    "max_seq_length": 64,
    "batch_size": 8,
    "max_steps": 60,
    "num_epochs": 15,
    "learning_rate": 0.005,
    "checkpoint_every": 30,
}


class Trained(NamedTuple):
    base: Path
    output: Path

    @property
    def model(self) -> Path:
        return self.output / "model"

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoints" / str(RECIPE["max_steps"])


@pytest.fixture(scope="module")
def trained(
    tiny_folder: Path, train_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    return train(tiny_folder, train_file, tmp_path_factory.mktemp("trained") / "out")


def train(base: Path, data: Path, output: Path, **recipe: Any) -> Trained:
    torch.set_num_threads(1)
    code, _ = trainings.train(trainings.config_of(base, data, RECIPE | recipe), output)
    assert code == ExitCode.DONE
    return Trained(base, output)


def export(trained: Trained, format: Any, output: Path) -> Path:
    source = trained.checkpoint if format == "lora" else trained.model
    write_format(format, source, output, "ft:tiny", str(trained.base))
    assert (
        subprocess.run(
            ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=output, check=False
        ).returncode
        == 0
    )
    return output


def answer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_tokens: int = 8) -> str:
    prompt = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=num_tokens, do_sample=False)
    return str(
        tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    )


@pytest.fixture
def fp8(trained: Trained) -> Iterator[PreTrainedModel]:
    """As it was trained, dequantized by transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield AutoModelForCausalLM.from_pretrained(
            trained.model, quantization_config=CompressedTensorsConfig(dequantize=True)
        )


def test_peft_puts_the_adapter_on_the_untouched_base(trained: Trained, tmp_path: Path) -> None:
    """Merged by PEFT it is W + alpha / r * B A; rounded as the trainer rounds, that gives the codes
    that were trained.
    """
    from peft import PeftModel  # it imports the half of torch that nothing else does

    folder = export(trained, "lora", tmp_path / "lora")
    base = AutoModelForCausalLM.from_pretrained(trained.base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, folder).merge_and_unload()
    exported, untouched = (
        load_file(folder / "model.safetensors") for folder in (trained.model, trained.base)
    )
    state = load_file(trained.checkpoint / "method.safetensors")
    names = [name for name in exported if name.endswith("_proj.weight")]
    assert len(names) == 14
    for name in names:
        module = name.removesuffix(".weight")
        b = state[f"{module}.delta"] * RECIPE["alpha"] / RECIPE["rank"]
        a = state[f"{module}.a"].float() * state[f"{module}.a_scale"]
        weight = merged.get_parameter(name).detach()
        torch.testing.assert_close(weight, untouched[name].float() + b @ a, rtol=1e-5, atol=1e-6)
        values, _ = quantize_rows(weight)
        trained_values = exported[name].float() * exported[f"{name}_scale"]
        # On a CPU the trainer multiplies B and A in bf16: what that rounds away can make a value
        # the one beside it.
        spacing = (
            torch.maximum(values.abs(), trained_values.abs()) / 8
            + exported[f"{name}_scale"] * 2**-9
        )
        assert ((values - trained_values).abs() <= spacing + 2**-7 * (b.abs() @ a.abs())).all(), (
            name
        )
        assert (values == trained_values).float().mean() > 0.9, name


def test_the_adapter_is_exact(trained: Trained, tmp_path: Path) -> None:
    folder = export(trained, "lora", tmp_path / "lora")
    adapter = load_file(folder / "adapter_model.safetensors")
    state = load_file(trained.checkpoint / "method.safetensors")
    name = "model.layers.1.mlp.down_proj"
    assert torch.equal(adapter[f"base_model.model.{name}.lora_B.weight"], state[f"{name}.delta"])
    assert torch.equal(
        adapter[f"base_model.model.{name}.lora_A.weight"],
        state[f"{name}.a"].float() * state[f"{name}.a_scale"],
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (
        16,
        32.0,
        str(trained.base),
    )


@pytest.mark.parametrize("format", ["lora", "bf16", "gguf"])
def test_every_form_carries_base_and_licence(
    format: ExactFormat, trained: Trained, tmp_path: Path
) -> None:
    source = shutil.copytree(
        trained.checkpoint if format == "lora" else trained.model, tmp_path / "source"
    )
    shutil.copyfile(trained.model / "README.md", source / "README.md")
    (source / "LICENSE").write_text("free")
    write_format(format, source, tmp_path / "made", "ft:tiny", "called-otherwise-here")
    data = ModelCard.load(tmp_path / "made" / "README.md").data
    assert (data.base_model, data.license, data.tags) == (
        "falqon-tiny",
        "apache-2.0",
        ["falqon", format],
    )
    assert (tmp_path / "made" / "LICENSE").read_text() == "free"
    assert not (tmp_path / "made" / "training_curve.svg").exists(), "its card shows none"
    if format == "lora":
        assert (
            json.loads((tmp_path / "made" / "adapter_config.json").read_text())[
                "base_model_name_or_path"
            ]
            == "falqon-tiny"
        )


def test_an_adapter_of_some_linears_names_only_those(
    tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    target_modules = ["q_proj", "v_proj"]
    some = train(
        tiny_folder, train_file, tmp_path / "out", target_modules=target_modules, max_steps=1
    )
    folder = tmp_path / "lora"
    write_format("lora", some.output / "checkpoints/1", folder, "ft:tiny", str(tiny_folder))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder)
    adapted = {
        name.split(".lora_")[0].rpartition(".")[2]
        for name, _ in model.named_modules()
        if name.endswith(".lora_A")
    }
    assert adapted == set(target_modules)


def test_bf16_is_the_trained_model_bit_for_bit(
    trained: Trained, fp8: PreTrainedModel, tmp_path: Path
) -> None:
    folder = export(trained, "bf16", tmp_path / "bf16")
    plain, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert plain.dtype == torch.bfloat16
    for (name, value), other in zip(
        plain.state_dict().items(), fp8.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    assert answer(plain, AutoTokenizer.from_pretrained(folder)) == answer(
        fp8, AutoTokenizer.from_pretrained(trained.model)
    )


@pytest.fixture
def with_named_templates(trained: Trained, tmp_path: Path) -> tuple[Trained, dict[str, str]]:
    """The trained model with several chat templates, as its tokenizer is stored."""
    changed = Trained(trained.base, tmp_path / "named")
    shutil.copytree(trained.model, changed.model)
    tokenizer = AutoTokenizer.from_pretrained(changed.model)
    default = str(tokenizer.chat_template)
    templates = {"default": default, "tool_use": "{{ tools | tojson }}" + default}
    templates |= {name: f"{{# {name} #}}{default}" for name in ("rag", "vision", "writer")}
    tokenizer.chat_template = templates
    tokenizer.save_pretrained(changed.model)
    assert (changed.model / "additional_chat_templates/tool_use.jinja").is_file()
    return changed, templates


def test_bf16_has_every_chat_template(
    with_named_templates: tuple[Trained, dict[str, str]], tmp_path: Path
) -> None:
    trained, templates = with_named_templates
    folder = export(trained, "bf16", tmp_path / "bf16")
    assert AutoTokenizer.from_pretrained(folder).chat_template == templates
    assert "additional_chat_templates/tool_use.jinja" in (folder / "SHA256SUMS").read_text()


def test_a_gguf_has_every_chat_template_and_llama_cpp_answers_with_the_default(
    with_named_templates: tuple[Trained, dict[str, str]], fp8: PreTrainedModel, tmp_path: Path
) -> None:
    trained, templates = with_named_templates
    folder = export(trained, "gguf", tmp_path / "gguf")
    reader = GGUFReader(folder / "model.gguf")
    stored = {
        name: reader.get_field(f"tokenizer.chat_template.{name}".removesuffix(".default"))
        for name in templates
    }
    assert {name: field and field.contents() for name, field in stored.items()} == templates
    names = reader.get_field("tokenizer.chat_templates")
    assert names is not None
    assert names.contents() == sorted(set(templates) - {"default"})
    expected = answer(fp8, AutoTokenizer.from_pretrained(trained.model))
    assert ask_llama_cpp(folder / "model.gguf", QUESTION, 8) == expected


@pytest.mark.parametrize(
    ("format", "source", "reason"),
    [
        ("lora", "falqon-tiny", "falqon-tiny is no folder of a checkpoint"),
        ("lora", "nowhere", "nowhere is no folder of a checkpoint"),
        ("bf16", "falqon-tiny", "falqon-tiny is no quantized model"),
        ("bf16", "nowhere", "config.json cannot be read"),
        ("gguf", "nowhere", "config.json cannot be read"),
        ("gguf", "broken", "config.json cannot be read"),
    ],
)
def test_a_wrong_source_is_named(
    format: ExactFormat, source: str, reason: str, tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "falqon-tiny").symlink_to(tiny_folder)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=reason):
        write_format(format, tmp_path / source, tmp_path / "made", "x", "y")
    assert not (tmp_path / "made").exists()


def without_scale(path: Path) -> None:
    tensors = load_file(path)
    del tensors["model.layers.0.mlp.down_proj.weight_scale"]
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("format", "name", "damage", "reason"),
    [
        ("bf16", "model.safetensors", Path.unlink, "holds no safetensors file"),
        ("bf16", "model.safetensors", lambda path: os.truncate(path, 999), "model.safetensors"),
        ("bf16", "model.safetensors", without_scale, "down_proj.weight is there without"),
        ("gguf", "model.safetensors", lambda path: os.truncate(path, 999), "model.safetensors"),
        ("gguf", "tokenizer.json", lambda path: os.truncate(path, 9), "tokenizer cannot be loaded"),
        ("lora", "method.safetensors", Path.unlink, "is damaged: method.safetensors"),
        ("lora", "method.safetensors", lambda path: os.truncate(path, 99), "is damaged: method"),
        ("lora", "progress.json", lambda path: os.truncate(path, 9), "is damaged: progress.json"),
    ],
)
def test_a_damaged_source_is_named(
    format: ExactFormat,
    name: str,
    damage: Callable[[Path], None],
    reason: str,
    trained: Trained,
    tmp_path: Path,
) -> None:
    source = trained.checkpoint if format == "lora" else trained.model
    damaged = shutil.copytree(source, tmp_path / "damaged")
    damage(damaged / name)
    with pytest.raises(ModelError, match=reason):
        write_format(format, damaged, tmp_path / "made", "x", "y")
    assert not (tmp_path / "made").exists()


def test_gguf_holds_the_trained_weights(
    trained: Trained, fp8: PreTrainedModel, tmp_path: Path
) -> None:
    """Read by the `gguf` library, and back into a folder by the importer of base models."""
    folder = export(trained, "gguf", tmp_path / "gguf")
    reader = GGUFReader(folder / "model.gguf")
    assert {tensor.tensor_type.name for tensor in reader.tensors if len(tensor.shape) == 2} == {
        "BF16"
    }
    assert reader.get_field("general.name").contents() == "ft:tiny"
    (tmp_path / "back").mkdir()
    convert_gguf(folder / "model.gguf", tmp_path / "back")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype="auto")
    for (name, value), other in zip(
        back.state_dict().items(), fp8.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    text = "Hello there, 2024!\n  It's <|im_end|> done"
    tokenizers = [
        AutoTokenizer.from_pretrained(folder) for folder in (trained.model, tmp_path / "back")
    ]
    assert tokenizers[0](text)["input_ids"] == tokenizers[1](text)["input_ids"]


def test_llama_cpp_answers_as_transformers_does(
    trained: Trained, fp8: PreTrainedModel, tmp_path: Path
) -> None:
    folder = export(trained, "gguf", tmp_path / "gguf")
    expected = answer(fp8, AutoTokenizer.from_pretrained(trained.model))
    assert ask_llama_cpp(folder / "model.gguf", QUESTION, 8) == expected
    assert len(set(expected.split())) > 2, "it has learned to say something"


def test_llama_cpp_puts_the_adapter_on_the_untouched_base(trained: Trained, tmp_path: Path) -> None:
    """It answers as the base with PEFT's adapter does, and as the base without it."""
    from peft import PeftModel

    source = shutil.copytree(trained.checkpoint, tmp_path / "source")
    with pytest.raises(FormatUnavailable, match="the base model has been deleted"):
        write_format("gguf_lora", source, tmp_path / "none", "x", "y")
    shutil.copyfile(trained.base / "config.json", source / "config.json")
    write_format("gguf_lora", source, tmp_path / "adapter", "ft:tiny", "falqon-tiny")
    write_gguf(trained.base, tmp_path, "base")
    base = AutoModelForCausalLM.from_pretrained(trained.base)
    tokenizer = AutoTokenizer.from_pretrained(trained.base)
    untouched = answer(base, tokenizer)
    assert ask_llama_cpp(tmp_path / "model.gguf", QUESTION, 8) == untouched
    adapted = PeftModel.from_pretrained(base, export(trained, "lora", tmp_path / "lora"))
    expected = answer(adapted.merge_and_unload(), tokenizer)
    assert expected != untouched
    adapter = tmp_path / "adapter" / "adapter.gguf"
    assert ask_llama_cpp(tmp_path / "model.gguf", QUESTION, 8, adapter) == expected


def test_an_adapter_for_llama_cpp_becomes_pefts_in_bf16(trained: Trained, tmp_path: Path) -> None:
    source = shutil.copytree(trained.checkpoint, tmp_path / "source")
    shutil.copyfile(trained.base / "config.json", source / "config.json")
    write_format("gguf_lora", source, tmp_path / "adapter", "ft:tiny", "falqon-tiny")
    gguf = tmp_path / "adapter" / "adapter.gguf"
    convert_gguf_adapter(gguf, trained.base, tmp_path / "peft", "falqon-tiny")
    expected = export(trained, "lora", tmp_path / "lora")
    weights = load_file(expected / "adapter_model.safetensors")
    found = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], each.bfloat16().float()) for name, each in weights.items())
    ours, theirs = (
        json.loads((folder / "adapter_config.json").read_text())
        for folder in (tmp_path / "peft", expected)
    )
    assert ours == theirs | {"base_model_name_or_path": "falqon-tiny"}
    gguf.write_bytes(gguf.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read as an adapter"):
        convert_gguf_adapter(gguf, trained.base, tmp_path / "peft", "falqon-tiny")


@pytest.mark.parametrize("recipe", [{"update_rule": "topk"}, {"base_copy": "none"}])
def test_rules_that_keep_no_delta_have_no_adapter(recipe: dict[str, Any]) -> None:
    with pytest.raises(FormatUnavailable, match="there is no adapter: each step") as caught:
        check_format("lora", Recipe.model_validate(recipe), {})
    assert (caught.value.code, caught.value.param) == ("format_not_available", "format")
    check_format("bf16", Recipe.model_validate(recipe), {})


QWEN3_MOE = {"model_type": "qwen3_moe", "norm_topk_prob": True}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "qwen3_5_text"}, "stand in another order"),
        (QWEN3_MOE, "a mixture has no Q4_1 file"),
    ],
)
def test_int4_that_no_file_would_hold_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatUnavailable, match=reason):
        check_format("q4_1", Recipe(method="qa_lora"), config)
    check_format("gguf", Recipe(), config)


@pytest.mark.parametrize("config", [{"model_type": "qwen3_5_text"}, QWEN3_MOE])
def test_adapters_that_llama_cpp_was_not_seen_to_take_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(FormatUnavailable, match="has not been shown to work"):
        check_format("gguf_lora", Recipe(), config)


def test_a_mixture_has_no_smaller_gguf() -> None:
    with pytest.raises(FormatUnavailable, match="a mixture's experts are not rounded"):
        check_format("gguf_q4_k_m", Recipe(), QWEN3_MOE)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "gemma"}, "no GGUF for the architecture 'gemma'"),
        ({"model_type": "llama", "rope_scaling": {"rope_type": "llama3"}}, "scaled"),
        ({"model_type": "qwen2", "rope_parameters": {"rope_type": "yarn"}}, "scaled"),
        ({"model_type": "lfm2", "conv_bias": True}, "convolutions have biases"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding window"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "sliding window"),
        ({"model_type": "qwen3_moe"}, "do not add up to one"),
        (QWEN3_MOE | {"mlp_only_layers": [3]}, "some of its layers have no experts"),
        (QWEN3_MOE | {"decoder_sparse_step": 2}, "some of its layers have no experts"),
        ({"model_type": "glm4_moe", "n_group": 2}, "chosen by groups"),
    ],
)
def test_a_config_that_gguf_cannot_express_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatUnavailable, match=reason):
        check_format("gguf", Recipe(), config)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ({}, "only method 'qa_lora' trains weights in INT4"),
        ({"method": "ir_lora", "quantizer": "int4"}, "only method 'qa_lora'"),
        ({"method": "qa_lora", "group_size": 64}, "trained with group_size 64"),
        ({"method": "qa_lora"}, "no GGUF for the architecture 'gemma'"),
    ],
)
def test_q4_1_is_for_groups_of_32_that_were_trained(recipe: dict[str, Any], reason: str) -> None:
    resolved = Recipe.model_validate(recipe).resolved(10)
    with pytest.raises(FormatUnavailable, match=reason):
        check_format("q4_1", resolved, {"model_type": "gemma"})
    check_format("q4_1", Recipe(method="qa_lora").resolved(10), {"model_type": "llama"})


@pytest.mark.parametrize("weights", ["fp8", "nvfp4"])
def test_what_is_advised_in_the_place_of_a_gguf_is_there(weights: Any) -> None:
    recipe = Recipe(weights=weights).resolved(10)
    config = {"model_type": "gemma"}
    with pytest.raises(FormatUnavailable, match=f"take {weights} or bf16"):
        check_format("gguf", recipe, config)
    for advised in (weights, "bf16"):
        check_format(advised, recipe, config)


def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    trained: Trained, tmp_path: Path
) -> None:
    described = json.loads((trained.model / "tokenizer.json").read_text())
    described["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, described["pre_tokenizer"]],
    }
    changed = Trained(trained.base, tmp_path)
    subprocess.run(["cp", "-r", trained.model, changed.model], check=True)
    (changed.model / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(FormatUnavailable, match="splits text"):
        write_format("gguf", changed.model, tmp_path / "gguf", "x", "y")
    assert not (tmp_path / "gguf").exists()
    assert not list(tmp_path.glob(".gguf*"))
