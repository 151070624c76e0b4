"""A comparison of an exported model's files with the trainer's reference outputs.

The folder is read as its users read it: tensors by safetensors, the tokenizer and the model by
transformers with the codes dequantized to bf16, which is exact. Nothing that trained takes part.
Codes, scales and all other tensors must be equal bit for bit, and the tokenizer must give the same
tokens; loss, logits and the canary's answer may differ by what another order of bf16 operations
makes of them, and where the trainer rounded activations to FP8, by what that rounding does. There
is no second forward pass over all validation data: equal bits say more than equal losses.

Bounds are of what was measured, several times over (docs/certificate.md), and that was on CPUs. On
any other device a difference beyond them is told and fails nothing; bits and tokens stay strict.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CompressedTensorsConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)  # fmt: skip

from falqon_core.contract.certificate import Canary, Check, CheckName
from falqon_core.export.block_forms import STORED
from falqon_core.export.reading import SCALE_SUFFIX
from falqon_core.generate import generate
from falqon_core.ops.matmul import widen_linears
from falqon_core.verification.reference import (
    CANARY_TOKENS,
    ReferenceOutputs,
    ReferenceRow,
    canary_prompt,
    tensor_sha256,
)


@dataclass(frozen=True)
class Bounds:
    """`loss` in nats a token. `noise`: the root mean square of the difference of the logits over
    that of the logits about their mean. `canary`: how much less probable (nats) any token of the
    trainer's answer is than the reloaded model's own choice at its place.
    """

    loss: float
    noise: float
    canary: float


BF16_BOUNDS = Bounds(loss=0.05, noise=0.15, canary=1.0)
FP8_BOUNDS = Bounds(loss=0.2, noise=0.6, canary=2.0)


def has_known_bounds(device: torch.device) -> bool:
    """Check that the possible difference of a right model was measured on such a device."""
    return device.type == "cpu"


@torch.no_grad()
def compare(
    folder: Path, reference: ReferenceOutputs, device: torch.device, strict: bool = True
) -> tuple[list[Check], Canary]:
    """Return the checks of the folder, passed or not, and both answers to the canary prompt.

    Without `strict` a difference beyond the bounds fails nothing. Raises the errors of reading the
    folder.
    """
    bounds = FP8_BOUNDS if reference.summary.rounds_activations else BF16_BOUNDS
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    checks = [*compare_bits(folder, reference), _compare_tokenizer(tokenizer, reference)]
    model = _load_model(folder, device)
    measured = [
        *_compare_rows(model, reference, bounds),
        _compare_answer(model, reference, bounds.canary),
    ]
    checks += [check.model_copy(update={"strict": strict}) for check in measured]
    answer = generate(model, reference.prompt.numpy(), CANARY_TOKENS, tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(
        [reference.prompt, reference.answer, answer], skip_special_tokens=True
    )
    return checks, Canary(prompt=texts[0], trainer=texts[1], reloaded=texts[2])


def compare_bits(folder: Path, reference: ReferenceOutputs) -> list[Check]:
    """Compare every tensor in the folder without loading a model."""
    expected = reference.summary.sha256
    actual = dict(_tensor_hashes(folder))
    quantized = {
        name
        for name in expected
        if name.endswith((SCALE_SUFFIX, *STORED)) or name + SCALE_SUFFIX in expected
    }
    different = {
        name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name)
    }
    # A tied tensor is written once, under one of its names.
    stored = set(actual.values())
    different -= {
        name
        for name in different
        if name not in actual and name not in quantized and expected[name] in stored
    }
    return [
        _equality("codes_and_scales", len(quantized), sorted(different & quantized)),
        _equality("other_tensors", len(actual.keys() - quantized), sorted(different - quantized)),
    ]


def load_libraries(base: Path) -> None:
    """Import what `compare` needs of that architecture and transformers imports late."""
    import compressed_tensors  # noqa: F401

    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _tensor_hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                yield name, tensor_sha256(file.get_tensor(name))


def _compare_tokenizer(tokenizer: PreTrainedTokenizerBase, reference: ReferenceOutputs) -> Check:
    passed = torch.equal(canary_prompt(tokenizer), reference.prompt)
    tokens = "the same tokens" if passed else "other tokens"
    return Check(name="tokenizer", passed=passed, detail=f"the canary prompt becomes {tokens}")


def _compare_rows(
    model: PreTrainedModel, reference: ReferenceOutputs, bounds: Bounds
) -> list[Check]:
    """Compare loss and logits of the held-out rows."""
    summary = reference.summary
    comparisons = [_compare_row(model, row) for row in reference.rows]
    cross_entropy, difference, variation = (
        sum(column) for column in zip(*comparisons, strict=True)
    )
    loss = cross_entropy / (summary.held_out.num_tokens - summary.held_out.num_rows)
    num_positions = sum(len(row.positions) for row in reference.rows)
    return [
        _check_bound(
            "loss",
            abs(loss - summary.loss),
            bounds.loss,
            f"{loss:.4f} nats a token, the trainer's {summary.loss:.4f}",
        ),
        _check_bound(
            "logits",
            math.sqrt(difference / variation),
            bounds.noise,
            f"relative difference at {num_positions} positions",
        ),
    ]


def _compare_row(model: PreTrainedModel, row: ReferenceRow) -> tuple[float, float, float]:
    """Return the summed cross entropy of the row and, at the captured positions, the squared
    difference of the logits and the squared distance of the trainer's from their mean.
    """
    output = model(input_ids=row.input_ids[None].to(model.device), use_cache=False)
    logits = output.logits[0].float().cpu()
    expected = row.logits.float()
    return (
        F.cross_entropy(logits[:-1], row.input_ids[1:], reduction="sum").item(),
        (logits[row.positions] - expected).pow(2).sum().item(),
        (expected - expected.mean()).pow(2).sum().item(),
    )


def _compare_answer(model: PreTrainedModel, reference: ReferenceOutputs, bound: float) -> Check:
    """Compare each token of the trainer's answer with the reloaded model's choice at its place."""
    difference = 0.0
    if len(reference.answer):
        both = torch.cat([reference.prompt, reference.answer])[None].to(model.device)
        logits = model(input_ids=both, use_cache=False).logits[0].float().cpu()
        logits = logits[len(reference.prompt) - 1 : -1]
        chosen = logits.gather(1, reference.answer[:, None]).squeeze(1)
        difference = (logits.amax(1) - chosen).amax().item()
    return _check_bound(
        "canary",
        difference,
        bound,
        "nats that the trainer's answer is behind the reloaded model's choice, at most",
    )


def _load_model(folder: Path, device: torch.device) -> PreTrainedModel:
    with warnings.catch_warnings():
        # transformers warns so for every loader option that meets a quantized checkpoint.
        warnings.filterwarnings("ignore", "You passed `quantization_config`", UserWarning)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=CompressedTensorsConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
            trust_remote_code=False,
        )
    model = model.eval().to(device)
    widen_linears(model)
    return model


def _equality(name: CheckName, count: int, different: list[str]) -> Check:
    detail = f"{count} tensors, bit for bit"
    if different:
        detail = f"{len(different)} tensors differ, the first is {different[0]}"
    return Check(name=name, passed=not different, detail=detail)


def _check_bound(name: CheckName, difference: float, bound: float, detail: str) -> Check:
    return Check(
        name=name,
        passed=difference <= bound,
        detail=detail,
        difference=round(difference, 6),
        bound=bound,
    )
