"""A model that was fine-tuned here is a base to train again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from falqon_core.contract.certificate import CERTIFICATE, Certificate
from falqon_core.contract.errors import ModelError
from falqon_core.contract.layout import checkpoint_folder, model_folder
from falqon_core.contract.messages import ExitCode
from falqon_core.export.formats import write_format
from falqon_core.files import write_json
from falqon_core.train.exporter import DataFiles, export_training
from falqon_core.train.model import load_base_model
from tests.falqon_core.train import trainings
from tests.falqon_core.train.test_trainer import RECIPE
from tests.falqon_core.train.trainings import config_of, resize


def train(model: Path, train_file: Path, output: Path, **recipe: object) -> Path:
    code, _ = trainings.train(
        config_of(model, train_file, RECIPE | {"max_steps": 4} | recipe), output
    )
    assert code == ExitCode.DONE
    return model_folder(output)


@pytest.fixture(scope="module")
def training(tiny_folder: Path, train_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("first") / "out"
    train(tiny_folder, train_file, output)
    return output


def assert_same_weights(folder: Path) -> None:
    """Codes times scale, rounded once."""
    tensors = load_file(folder / "model.safetensors")
    model = load_base_model(folder)
    for name, value in model.state_dict().items():
        if f"{name}_scale" in tensors:
            assert torch.equal(
                value, (tensors[name].float() * tensors[f"{name}_scale"]).bfloat16()
            ), name
        elif name in tensors:
            assert torch.equal(value, tensors[name]), name
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not hasattr(model.config, "quantization_config")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_fine_tuned_base_loads_its_weights_exactly(training: Path) -> None:
    assert_same_weights(model_folder(training))


def test_a_second_training_keeps_how_the_model_answers(
    training: Path, train_file: Path, tmp_path: Path
) -> None:
    """With the tokens that end an answer, of the samples as well."""
    answers = {"eos_token_id": [2, 1], "do_sample": True, "temperature": 0.7, "top_p": 0.8}
    answers["repetition_penalty"] = 1.05
    base = shutil.copytree(model_folder(training), tmp_path / "base")
    write_json(base / "generation_config.json", answers)

    again = train(base, train_file, tmp_path / "out", max_steps=1)
    write_format("bf16", again, tmp_path / "bf16", "again", "base")

    for folder in (again, tmp_path / "bf16"):
        kept = json.loads((folder / "generation_config.json").read_text())
        assert {name: kept.get(name) for name in answers} == answers
        assert "_from_model_config" not in kept
    assert load_base_model(again).generation_config.eos_token_id == [2, 1]


def test_training_continues_from_a_fine_tuned_base(
    training: Path, train_file: Path, tmp_path: Path
) -> None:
    again = train(model_folder(training), train_file, tmp_path / "out")
    assert_same_weights(again)
    config = json.loads((again / "config.json").read_text())
    assert (
        config["quantization_config"]
        == json.loads((model_folder(training) / "config.json").read_text())["quantization_config"]
    )
    before, after = (
        load_file(folder / "model.safetensors") for folder in (model_folder(training), again)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))


def test_a_fine_tuned_base_loads_from_several_weight_files(training: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(training), tmp_path / "model")
    whole = load_base_model(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    scales = {name: tensors.pop(name) for name in list(tensors) if name.endswith("_scale")}
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    save_file(scales, folder / "model-00002-of-00002.safetensors", metadata={"format": "pt"})
    assert all(
        torch.equal(value, whole[name])
        for name, value in load_base_model(folder).state_dict().items()
    )


@pytest.mark.parametrize("change", [{"format": "int-quantized"}, {"quant_method": "gptq"}])
def test_quantized_models_not_made_by_training_are_refused(
    training: Path, tmp_path: Path, change: dict[str, str]
) -> None:
    folder = shutil.copytree(model_folder(training), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="quantized already"):
        load_base_model(folder)


def test_a_scale_that_is_missing_is_not_made_up(training: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(training), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight_scale"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.0\.mlp\.up_proj"):
        load_base_model(folder)


@pytest.mark.usefixtures("certified_here")
def test_an_earlier_checkpoint_is_exported_by_its_step(
    training: Path, tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    export_training(training, tiny_folder, tmp_path / "four", step=4)
    export_training(
        training, tiny_folder, tmp_path / "two", step=2, files=DataFiles(train_file, None)
    )
    certificate = Certificate.model_validate_json((tmp_path / "two" / CERTIFICATE).read_bytes())
    assert (certificate.failed, certificate.training.steps) == ([], 2)
    assert not (tmp_path / "four" / CERTIFICATE).exists(), "there was nothing to compare on"
    final = (model_folder(training) / "model.safetensors").read_bytes()
    assert (tmp_path / "four" / "model.safetensors").read_bytes() == final
    assert (tmp_path / "two" / "model.safetensors").read_bytes() != final
    assert_same_weights(tmp_path / "two")
    assert checkpoint_folder(training, 2).is_dir()
    with pytest.raises(ModelError, match="no checkpoint of step 3"):
        export_training(training, tiny_folder, tmp_path / "three", step=3)


def test_a_checkpoint_is_not_merged_into_another_base(
    training: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """Of the same shapes: of other numbers altogether, or trained from its own base."""
    other = resize(tiny_folder, tmp_path / "other", 2)
    for base in (other, model_folder(training)):
        with pytest.raises(
            ModelError, match=f"4 was trained from another base model than {base.name}"
        ):
            export_training(training, base, tmp_path / "out", step=4)
        assert not (tmp_path / "out").exists()
