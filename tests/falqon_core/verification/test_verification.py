"""A trained model against its own files, whole and damaged; the process that compares them is the
real one.
"""

import importlib.metadata
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file

from falqon_core.contract.certificate import Certificate
from falqon_core.contract.config import TrainConfig
from falqon_core.contract.errors import CertificateMismatch, FalqonError
from falqon_core.contract.messages import ExitCode
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.train import exporter
from falqon_core.train.checkpoint import TrainingState, load_checkpoint
from falqon_core.train.data import load_data
from falqon_core.train.exporter import describe_doubt, describe_training, restore_model
from falqon_core.train.model import load_tokenizer
from falqon_core.verification.capture import capture_reference
from falqon_core.verification.client import VerifierProcess
from falqon_core.verification.compare import compare, has_known_bounds
from falqon_core.verification.process import device_for_reload
from falqon_core.verification.reference import (
    ReferenceOutputs,
    ReferenceRow,
    load_reference,
    save_reference,
)
from tests.falqon_core.train import trainings

RECIPE = {
    "rank": 8,
    "max_seq_length": 64,
    "batch_size": 8,
    "max_steps": 4,
    "learning_rate": 0.01,
    "seed": 5,
}

# what methods need of their own on falqon-tiny, whose matrices have 64 and 176 inputs
OF_METHODS: dict[str, dict[str, Any]] = {"qa_lora": {"group_size": 16}, "ir_lora": {"rank": 16}}


class Trained(NamedTuple):
    config: TrainConfig
    folder: Path
    checkpoint: TrainingState
    reference: ReferenceOutputs


def train(
    tiny: Path, data: Path, output: Path, *, certificate: bool = True, **recipe: Any
) -> Trained:
    torch.set_num_threads(1)
    options = {"certificate": certificate, "base_model_name": "acme/tiny"}
    config = trainings.config_of(tiny, data, RECIPE | recipe, **options)
    assert trainings.train(config, output)[0] == ExitCode.DONE
    checkpoint = load_checkpoint(output / "checkpoints" / "4")
    tokenizer = load_tokenizer(tiny)
    model = restore_model(tiny, checkpoint, torch.device("cpu"))
    training, validation = load_data(config, tokenizer, lambda text: None)
    return Trained(
        config,
        output / "model",
        checkpoint,
        capture_reference(model, tokenizer, validation, training),
    )


class AskedToStop(VerifierProcess):
    """A request to stop is the trainer's to answer."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self._process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def trained(
    tiny_folder: Path, train_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    output = tmp_path_factory.mktemp("trained") / "out"
    with patch.object(exporter, "VerifierProcess", AskedToStop):
        return train(tiny_folder, train_file, output, validation_fraction=0.2)


def certificate_of(folder: Path) -> Certificate:
    return Certificate.model_validate_json((folder / "certificate.json").read_bytes())


def test_the_certificate_names_base_data_and_recipe(trained: Trained) -> None:
    certificate = certificate_of(trained.folder)

    assert [(check.name, check.passed) for check in certificate.checks] == [
        (name, True)
        for name in ("codes_and_scales", "other_tensors", "tokenizer", "loss", "logits", "canary")
    ]
    assert certificate.checks[0].detail == "28 tensors, bit for bit"
    assert (certificate.held_out.source, certificate.held_out.num_rows) == ("validation", 4)
    assert certificate.canary.prompt.startswith("user\nHello!")
    assert certificate.base.name == "acme/tiny"
    lines = subprocess.run(
        f"sha256sum {trained.config.train_file}",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert certificate.data.train == lines.split()[0]
    assert (certificate.training.recipe, certificate.training.recipe.seed) == (
        trained.checkpoint.progress.recipe,
        5,
    )
    metrics = trained.checkpoint.progress.metrics
    served = certificate.training.metrics["valid_loss_as_served"]
    assert served != metrics["valid_loss"]
    assert (certificate.training.steps, certificate.training.metrics) == (
        4,
        metrics | {"valid_loss_fp8_weights": metrics["valid_loss"], "valid_loss_as_served": served},
    )
    card = (trained.folder / "README.md").read_text()
    assert f"| merged, weights in FP8 | {metrics['valid_loss']:.4f} |" in card
    assert f"weights and activations in FP8, as a card with FP8 serves it | {served:.4f} |" in card
    assert certificate.software.libraries["torch"] == importlib.metadata.version("torch")
    assert (certificate.device.type, certificate.service) == ("cpu", None)


def test_the_base_is_named_by_what_sha256sum_says_of_its_files(trained: Trained) -> None:
    folder = trained.config.model
    command = "ls | LC_ALL=C sort | xargs sha256sum | sha256sum"
    lines = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert certificate_of(trained.folder).base.sha256 == lines.split()[0]


def test_every_file_is_in_the_certificate_or_in_the_sums(trained: Trained) -> None:
    certificate = certificate_of(trained.folder)
    sums = dict(
        reversed(line.split("  ", 1))
        for line in (trained.folder / "SHA256SUMS").read_text().splitlines()
    )
    assert {file.name: file.sha256 for file in certificate.files} | {
        "certificate.json": sums["certificate.json"]
    } == sums
    assert {"README.md", "training_curve.svg"} <= sums.keys()
    assert sums.keys() | {"SHA256SUMS"} == {path.name for path in trained.folder.iterdir()}
    assert (
        subprocess.run(
            ["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=trained.folder, check=False
        ).returncode
        == 0
    )


def test_the_model_card_shows_the_certificate(trained: Trained) -> None:
    card = (trained.folder / "README.md").read_text()
    assert "| codes and scales | none | 28 tensors, bit for bit |" in card
    assert "4 rows of the validation data" in card
    assert (
        f"| sha256 of the training file | `{certificate_of(trained.folder).data.train}` |" in card
    )


def test_nothing_is_left_beside_the_model(trained: Trained) -> None:
    assert sorted(path.name for path in trained.folder.parent.iterdir()) == ["checkpoints", "model"]


def test_reference_outputs_survive_their_file(trained: Trained, tmp_path: Path) -> None:
    save_reference(trained.reference, tmp_path / "reference")
    read = load_reference(tmp_path / "reference")
    assert read.summary == trained.reference.summary
    names = [field.name for field in fields(ReferenceRow)]
    assert all(
        torch.equal(getattr(row, name), getattr(expected_row, name))
        for row, expected_row in zip(read.rows, trained.reference.rows, strict=True)
        for name in names
    )
    assert torch.equal(read.prompt, trained.reference.prompt)
    assert torch.equal(read.answer, trained.reference.answer)


def change_tensor(name: str, change: Callable[[torch.Tensor], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors[name])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def flip_a_bit(tensor: torch.Tensor) -> None:
    tensor.view(torch.uint8)[0, 0] ^= 1


def change_json(file: str, **values: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return damage


def another_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")


CODES = "model.layers.0.mlp.up_proj.weight"
SCALES = "model.layers.1.self_attn.k_proj.weight_scale"


@pytest.mark.parametrize(
    ("damage", "failed"),
    [
        (change_tensor(CODES, flip_a_bit), {"codes_and_scales"}),
        (change_tensor(SCALES, lambda scale: scale[3].mul_(2)), {"codes_and_scales"}),
        (change_tensor("model.norm.weight", lambda weight: weight[:1].add_(1)), {"other_tensors"}),
        (
            change_json(
                "config.json",
                rope_theta=100.0,
                rope_parameters={"rope_type": "default", "rope_theta": 100.0},
            ),
            {"logits"},
        ),
        (change_json("config.json", rms_norm_eps=1.0), {"loss", "logits"}),
        (another_template, {"tokenizer"}),
    ],
    ids=["one bit of a code", "a scale", "a norm", "rotary base", "epsilon", "chat template"],
)
def test_damage_is_found(
    damage: Callable[[Path], None], failed: set[str], trained: Trained, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "model")
    damage(folder)
    checks, _ = compare(folder, trained.reference, torch.device("cpu"))
    failures = {check.name for check in checks if not check.passed}
    assert failed <= failures, checks
    assert not {"codes_and_scales", "other_tensors", "tokenizer"} & (failures - failed)


def test_only_bits_and_tokens_are_strict_where_no_bounds_were_measured(
    trained: Trained, tmp_path: Path
) -> None:
    assert has_known_bounds(torch.device("cpu"))
    assert not has_known_bounds(torch.device("cuda"))
    folder = shutil.copytree(trained.folder, tmp_path / "model")
    change_json("config.json", rms_norm_eps=1.0)(folder)
    change_tensor(CODES, flip_a_bit)(folder)
    checks, _ = compare(folder, trained.reference, torch.device("cpu"), strict=False)
    certificate = certificate_of(trained.folder).model_copy(update={"checks": checks})
    assert {check.name for check in certificate.failed} == {"codes_and_scales"}
    assert {"loss", "logits"} <= {check.name for check in certificate.doubtful}
    doubt = describe_doubt(certificate.doubtful[0])
    assert "their loss differs by" in doubt
    assert "where 0.05 was expected" in doubt


@pytest.mark.parametrize(
    "recipe",
    [
        {"simulate_fp8": True},
        {"update_rule": "topk"},
        {"base_copy": "none"},
        *(OF_METHODS.get(name, {}) | {"method": name} for name in METHOD_SPECS if name != "falqon"),
    ],
    ids=lambda recipe: recipe.get("method", next(iter(recipe))),
)
def test_every_way_to_train_passes_its_certificate(
    recipe: dict[str, Any], tiny_folder: Path, train_file: Path, tmp_path: Path
) -> None:
    trained = train(tiny_folder, train_file, tmp_path / "out", certificate=False, **recipe)
    assert trained.reference.summary.rounds_activations == ("simulate_fp8" in recipe)
    assert trained.reference.summary.held_out.source == "training"
    checks, _ = compare(trained.folder, trained.reference, torch.device("cpu"))
    assert all(check.passed for check in checks), checks
    assert not (trained.folder / "certificate.json").exists()


def test_of_pairs_the_chosen_answers_are_read(tiny_folder: Path, tmp_path: Path) -> None:
    pair = {
        "input": {"messages": [{"role": "user", "content": "Which?"}]},
        "preferred_output": [{"role": "assistant", "content": "the blue kettle"}],
        "non_preferred_output": [{"role": "assistant", "content": "ropes and maps and tea"}],
    }
    (tmp_path / "pairs.jsonl").write_text(f"{json.dumps(pair)}\n" * 16)
    trained = train(
        tiny_folder,
        tmp_path / "pairs.jsonl",
        tmp_path / "out",
        certificate=False,
        objective="dpo",
        num_epochs=2,
    )
    rendered = load_tokenizer(tiny_folder).decode(trained.reference.rows[0].input_ids)
    assert "the blue kettle" in rendered
    assert "ropes" not in rendered
    checks, _ = compare(trained.folder, trained.reference, torch.device("cpu"))
    assert all(check.passed for check in checks), checks


@pytest.mark.usefixtures("certified_here")
def test_a_mismatch_is_an_error_that_says_which(trained: Trained, tmp_path: Path) -> None:
    folder = shutil.copytree(trained.folder, tmp_path / "model")
    change_tensor(CODES, flip_a_bit)(folder)
    verifier = VerifierProcess(trained.config)
    with pytest.raises(
        CertificateMismatch, match=f"codes_and_scales: 1 tensors differ, the first is {CODES}"
    ):
        verifier.certify(
            folder,
            trained.reference,
            describe_training(trained.checkpoint.progress),
            torch.device("cpu"),
        )
    verifier.close()


def test_a_process_that_is_killed_says_nothing_of_the_model(trained: Trained) -> None:
    verifier = VerifierProcess(trained.config)
    verifier._process.kill()
    with pytest.raises(FalqonError, match="ended with -9") as caught:
        verifier.certify(
            trained.folder,
            trained.reference,
            describe_training(trained.checkpoint.progress),
            torch.device("cpu"),
        )
    assert caught.value.code == "internal_error"
    verifier.close()


def test_a_card_that_does_not_hold_the_reloaded_model_leaves_it_to_the_cpu(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(path.stat().st_size for path in trained.folder.glob("*.safetensors"))
    for free, expected in ((2 * size, "cuda"), (2 * size - 1, "cpu")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
        assert device_for_reload(trained.folder, torch.device("cuda")).type == expected
