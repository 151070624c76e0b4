"""What docs/models.md says of each family: a model of it comes in, learns, continues bit for bit,
and is exported as what it is, proved by the certificate, by transformers and by PEFT.
"""

import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, CompressedTensorsConfig, PreTrainedModel

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.layout import model_folder
from falqon_core.contract.messages import StepMetrics
from falqon_core.contract.model_folder import MIXTURES
from falqon_core.export.formats import write_format
from falqon_core.importers.importer import import_model
from falqon_core.meld.convert import target_linears
from falqon_core.ops.experts import quantize_experts
from falqon_core.ops.quantize import quantize_rows
from falqon_core.train.checkpoint import load_checkpoint
from falqon_core.train.data import load_data
from falqon_core.train.exporter import restore_model
from falqon_core.train.model import load_tokenizer
from falqon_core.verification.capture import capture_reference
from falqon_core.verification.compare import compare
from tests.falqon_core.families.models import FAMILIES, write_model
from tests.falqon_core.train import trainings

# PEFT asks transformers by a name that is going to change.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
STEPS = 8
RECIPE = Recipe(
    rank=16,
    max_seq_length=64,
    microbatch_tokens=256,
    batch_size=10,
    max_steps=STEPS,
    num_epochs=4,
    learning_rate=0.02,
    checkpoint_every=STEPS // 2,
)
CPU = torch.device("cpu")


class Trained(NamedTuple):
    base: Path
    output: Path
    config: TrainConfig
    losses: list[float]

    @property
    def model(self) -> Path:
        return model_folder(self.output)

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoints" / str(STEPS)


@pytest.fixture(scope="module", params=FAMILIES)
def trained(
    request: pytest.FixtureRequest,
    tiny_folder: Path,
    train_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    folder = tmp_path_factory.mktemp("family")
    write_model(FAMILIES[request.param], tiny_folder, folder / "source")
    import_model(str(folder / "source"), folder / "base")
    config = TrainConfig(
        model=folder / "base",
        train_file=train_file,
        num_threads=1,
        certificate=False,  # its process takes seconds to start, and does what `compare` does
        recipe=RECIPE,
    )
    return Trained(folder / "base", folder / "out", config, train(config, folder / "out"))


def train(config: TrainConfig, output: Path) -> list[float]:
    """Return the loss of every step."""
    torch.set_num_threads(1)
    _, messages = trainings.train(config, output)
    return [message.train_loss for message in trainings.of(StepMetrics, messages)]


@pytest.fixture
def reloaded(trained: Trained) -> PreTrainedModel:
    """The exported model as transformers reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return AutoModelForCausalLM.from_pretrained(
            trained.model,
            quantization_config=CompressedTensorsConfig(dequantize=True),
            dtype=torch.float32,
        )


def test_the_loss_falls(trained: Trained) -> None:
    assert len(trained.losses) == STEPS
    assert trained.losses[-1] < trained.losses[0] - 0.5


def test_continued_is_uninterrupted(trained: Trained, tmp_path: Path) -> None:
    half = f"checkpoints/{STEPS // 2}"
    shutil.copytree(trained.output / half, tmp_path / "out" / half)
    losses = train(trained.config, tmp_path / "out")

    assert losses == trained.losses[STEPS // 2 :]
    for path in sorted(trained.output.glob("*/*/*")) + sorted(trained.model.iterdir()):
        if path.is_file():
            other = tmp_path / "out" / path.relative_to(trained.output)
            assert path.read_bytes() == other.read_bytes(), path.name


def test_the_certificate_is_green(trained: Trained) -> None:
    tokenizer = load_tokenizer(trained.base)
    model = restore_model(trained.base, load_checkpoint(trained.checkpoint), CPU)
    data = load_data(trained.config, tokenizer, lambda text: None)

    reference = capture_reference(model, tokenizer, None, data.train)
    checks, _ = compare(trained.model, reference, CPU)

    assert [check.name for check in checks if not check.passed] == []
    assert max(len(row.input_ids) for row in reference.rows) > 14, "longer than two windows"


def test_peft_loads_the_adapter_with_the_same_logits(
    trained: Trained, reloaded: PreTrainedModel, tmp_path: Path
) -> None:
    """Merged into the base and rounded as the trainer rounds, it answers as the exported model."""
    from peft import PeftModel  # it imports the half of torch that nothing else does

    write_format("lora", trained.checkpoint, tmp_path / "lora", "ft:tiny", str(trained.base))
    base = AutoModelForCausalLM.from_pretrained(trained.base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload()
    with torch.no_grad():
        for linear in target_linears(merged, None).values():
            linear.weight.copy_(quantize_rows(linear.weight)[0])
        quantize_experts(merged)
        input_ids = torch.arange(3, 40)[None]
        actual, expected = (model(input_ids).logits for model in (merged, reloaded))
        untouched = AutoModelForCausalLM.from_pretrained(trained.base, dtype=torch.float32)
        before = untouched(input_ids).logits

    exported = dict(reloaded.named_modules())
    for name, linear in target_linears(merged, None).items():
        weight = exported[name].weight
        # One code in twenty is a neighbour: the trainer takes halves off their tie, this does not.
        assert (linear.weight - weight).norm() < 0.02 * weight.norm(), name
    # A neighbour may send a token to another expert, and grows along a recurrence.
    grows = reloaded.config.model_type in MIXTURES or "linear_attn" in str(reloaded)
    assert noise(actual, expected) < (0.2 if grows else 0.1)
    assert noise(before, expected) > 0.5, "training changed the logits by more than that"


def noise(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the root mean square of the difference over that of `expected` about its mean."""
    difference = (actual - expected).square().mean()
    return float((difference / (expected - expected.mean()).square().mean()).sqrt())
