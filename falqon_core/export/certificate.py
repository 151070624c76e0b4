"""Hold the files of an exported model against what the trainer said of it.

The folder is read as its users read it: tensors by safetensors, the tokenizer and the model by transformers with the codes dequantized
to bf16, which is exact. None of the trainer's modules take part. Codes, scales and all other tensors must be equal bit for bit, and the
tokenizer must give the same tokens; loss, logits and the canary's answer may differ by what another order of bf16 operations makes of
them, and where the trainer rounded activations to FP8, by what that rounding does.

Bounds are of what was measured, several times over (docs/models.md): `loss` in nats a token, `noise` the root mean square of the
difference of the logits over that of the logits about their mean, `canary` how much less probable (nats) any token of the trainer's
answer is than the reloaded model's own choice at its place.
What is given up: a whole second forward pass over the validation data; equal bits say more than equal losses.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CompressedTensorsConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)  # fmt: skip

from falqon_core.contract.certificate import Canary, Check, CheckName
from falqon_core.export.reading import SCALE
from falqon_core.export.reference import CANARY_TOKENS, ReferenceOutputs, Row, canary_prompt, sha256_of


class Bounds(NamedTuple):
    loss: float
    noise: float
    canary: float


BF16 = Bounds(loss=0.05, noise=0.15, canary=1.0)
FP8 = Bounds(loss=0.2, noise=0.6, canary=2.0)


@torch.no_grad()
def compare(folder: Path, reference_outputs: ReferenceOutputs, device: torch.device) -> tuple[list[Check], Canary]:
    """Raises the errors of reading the folder."""
    bounds = FP8 if reference_outputs.record.rounds_activations else BF16
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    checks = [*compare_bits(folder, reference_outputs), _tokenizer(tokenizer, reference_outputs)]
    model = _load(folder, device)
    summed, different, told = (sum(column) for column in zip(*(_row(model, row) for row in reference_outputs.rows), strict=True))
    held_out = reference_outputs.record.held_out
    loss = summed / (held_out.num_tokens - held_out.num_rows)
    answer, behind = _canary(model, reference_outputs)
    checks += [
        _bounded(
            "loss",
            abs(loss - reference_outputs.record.loss),
            bounds.loss,
            f"{loss:.4f} nats a token, the trainer's {reference_outputs.record.loss:.4f}",
        ),
        _bounded(
            "logits",
            math.sqrt(different / told),
            bounds.noise,
            f"relative difference at {sum(len(row.positions) for row in reference_outputs.rows)} positions",
        ),
        _bounded("canary", behind, bounds.canary, "nats that the trainer's answer is behind the reloaded model's choice, at most"),
    ]
    texts = tokenizer.batch_decode([reference_outputs.prompt, reference_outputs.answer, answer], skip_special_tokens=True)
    return checks, Canary(prompt=texts[0], trainer=texts[1], reloaded=texts[2])


def compare_bits(folder: Path, reference_outputs: ReferenceOutputs) -> list[Check]:
    """Of every tensor in the folder, without loading a model."""
    expected, found = reference_outputs.record.sha256, dict(_hashes(folder))
    quantized = {name for name in expected if name.endswith(SCALE) or name + SCALE in expected}
    stored = set(found.values())
    # A tied tensor is written once, under one of its names.
    different = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
    different -= {name for name in different if name not in found and name not in quantized and expected[name] in stored}
    return [
        _equal("codes_and_scales", len(quantized), sorted(different & quantized)),
        _equal("other_tensors", len(found.keys() - quantized), sorted(different - quantized)),
    ]


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                yield name, sha256_of(file.get_tensor(name))


def _equal(name: CheckName, count: int, different: list[str]) -> Check:
    detail = f"{len(different)} tensors differ, the first is {different[0]}" if different else f"{count} tensors, bit for bit"
    return Check(name=name, passed=not different, detail=detail)


def _tokenizer(tokenizer: PreTrainedTokenizerBase, reference_outputs: ReferenceOutputs) -> Check:
    same = torch.equal(canary_prompt(tokenizer), reference_outputs.prompt)
    return Check(name="tokenizer", passed=same, detail="the canary prompt becomes " + ("the same tokens" if same else "other tokens"))


def load_libraries(base: Path) -> None:
    """What `compare` will need for a model of that architecture, and transformers imports late."""
    import compressed_tensors  # noqa: F401

    MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False))]


def _load(folder: Path, device: torch.device) -> PreTrainedModel:
    with warnings.catch_warnings():  # transformers says so whenever a loader option is passed for a checkpoint that is quantized
        warnings.filterwarnings("ignore", "You passed `quantization_config`", UserWarning)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            quantization_config=CompressedTensorsConfig(dequantize=True),
            dtype=torch.bfloat16,
            local_files_only=True,
            trust_remote_code=False,
        )
    return model.eval().to(device)


def _row(model: PreTrainedModel, row: Row) -> tuple[float, float, float]:
    """-> (summed cross entropy; of the logits that were told, the square of their difference and of what they are about their mean)."""
    logits = model(input_ids=row.input_ids[None].to(model.device), use_cache=False).logits[0].float().cpu()
    summed = F.cross_entropy(logits[:-1], row.input_ids[1:], reduction="sum").item()
    told = row.logits.float()
    return summed, (logits[row.positions] - told).pow(2).sum().item(), (told - told.mean()).pow(2).sum().item()


def _canary(model: PreTrainedModel, reference_outputs: ReferenceOutputs) -> tuple[Tensor, float]:
    """-> (the reloaded model's own answer, how far the trainer's is behind the best choice at any of its places)."""
    prompt, answer = reference_outputs.prompt, reference_outputs.answer
    config = GenerationConfig(
        max_new_tokens=CANARY_TOKENS,
        do_sample=False,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=model.generation_config.pad_token_id or 0,
    )
    input_ids = prompt[None].to(model.device)
    own = model.generate(input_ids, attention_mask=torch.ones_like(input_ids), generation_config=config)[0, len(prompt) :].cpu()
    if not len(answer):
        return own, 0.0
    both = torch.cat([prompt, answer])[None].to(model.device)
    logits = model(input_ids=both, use_cache=False).logits[0, len(prompt) - 1 : -1].float().cpu()
    chosen = logits.gather(1, answer[:, None]).squeeze(1)
    return own, (logits.amax(1) - chosen).amax().item()


def _bounded(name: CheckName, difference: float, bound: float, what: str) -> Check:
    return Check(name=name, passed=difference <= bound, detail=what, difference=round(difference, 6), bound=bound)
