"""FALQON: adapters melded into the quantized backbone (method.md), by the protocol of `methods`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from falqon_core.contract.config import Recipe
from falqon_core.contract.errors import LossNotFinite
from falqon_core.data.loader import Microbatch
from falqon_core.meld.block_quantizer import QUANTIZERS
from falqon_core.meld.convert import convert_to_melded, swap_blocks, target_linears
from falqon_core.meld.init import gradient_sketches
from falqon_core.meld.linear import MeldedLinear
from falqon_core.meld.packed_weight import choose_gemms_of
from falqon_core.meld.row_shard import WHOLE
from falqon_core.meld.sharded_layers import Ranks, ShardedLayers, shard_of
from falqon_core.meld.update import update_rule
from falqon_core.methods.frozen import tensors_of
from falqon_core.methods.relative_rate import RelativeRate
from falqon_core.objectives import create_objective

# Measured by a prototype on the data of benchmarks/learning.py (SmolLM2, seed 0), held-out loss
# after 60 steps by the multiple of B's rate: 1: 0.8013, 2: 0.7995, 4: 0.7972, 8: 0.7954; with A
# frozen 0.8068. Along the gradient alone: a random A at 8 times its rate of 1e-3 learned less than
# a frozen one, 1.01 against 0.94 of training loss after 30 steps.
A_RELATIVE_RATE = 8.0
# On 1,000 notes to JSON (750 steps, seed 10, other notes than those of benchmarks/tasks.py), held
# out after 120 and 180 steps: 8 times to the end 0.0243, 0.0301 (and 0.0977 after 240); falling as
# 1/step from step 60 0.0145, 0.0318, and from step 20 0.0105, 0.0105; as here 0.0095, 0.0092; B's
# rate from the start 0.0108, 0.0109, and on GSM8K after 60 steps 0.007 more than 8 times.
A_FULL_STEPS = 40


def a_relative_rate(step: int) -> float:
    """Return the multiple of B's rate at which an A along the gradient is moved at a step, counted
    from 0. B grows with the steps, and with it what a change of A does to the weights.
    """
    return max(1.0, A_RELATIVE_RATE * min(1.0, A_FULL_STEPS / (step + 1)) ** 2)


class Falqon:
    """The method of this software: adapters in the rows of FP8 linears (`meld`)."""

    def __init__(
        self,
        recipe: Recipe,
        ranks: Ranks | None = None,
    ) -> None:
        """`recipe` is resolved. With `ranks` each of them stores a part of the rows."""
        self.recipe = recipe
        self.ranks = ranks
        self.shards: ShardedLayers | None = None
        self.rule = update_rule(recipe)
        self.layers: dict[str, MeldedLinear] = {}

    def prepare(self, model: PreTrainedModel, first_microbatches: Sequence[Microbatch]) -> None:
        """Swap in the melded linears; with a_init "gradient" the microbatches give A's directions.
        Raises `ConfigError` where a target or the rank does not fit, and `LossNotFinite` where the
        base model's loss is not a number.
        """
        swap_blocks(model)
        sketches = (
            self._sketch(model, first_microbatches) if self.recipe.a_init == "gradient" else None
        )
        with self._rows_change():
            self._convert(model, sketches)
        del sketches

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Swap in empty melded linears and fill each from its tensors in `state`."""
        swap_blocks(model)
        with self._rows_change():
            # No A is chosen here: the checkpoint has the one that was trained.
            self._convert(model, fresh=False)
            self._load(state)

    def reload(self, state: dict[str, Tensor]) -> None:
        """Take the prepared model to the point of another checkpoint of the same training."""
        with self._rows_change():
            self._load(state)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the deltas, fp32 [O, r], and the masters of those A that train, fp32 [r, I]."""
        # Names are stable, since checkpoints store moments by them.
        deltas = {f"{name}.delta": layer.delta for name, layer in self.layers.items()}
        masters = {
            f"{name}.a_master": layer.a_master
            for name, layer in self.layers.items()
            if layer.a_master is not None
        }
        return deltas | masters

    def relative_rates(self) -> dict[str, RelativeRate]:
        """Return the factor of the masters' rate; the deltas have the rate of the recipe."""
        if self.recipe.a_init != "gradient":
            return {}
        masters = [name for name in self.parameters() if name.endswith(".a_master")]
        return dict.fromkeys(masters, a_relative_rate)

    def maxima(self) -> Tensor | None:
        """Return None: every scale is that of a token or a row, which no other rank shares."""
        return None

    @torch.no_grad()
    def after_step(self) -> float:
        """Rebuild or fold the rows of all linears; one transfer from the device for the count."""
        # int64 [], to which every linear adds; sums of integers have no order.
        changed = next(iter(self.layers.values())).delta.new_zeros((), dtype=torch.int64)
        with self._rows_change(changed):
            for layer in self.layers.values():
                self.rule.after_step(layer, changed)
        return changed.item() / sum(
            layer.out_features * layer.in_features for layer in self.layers.values()
        )

    def merge(self, model: PreTrainedModel) -> None:
        """Do nothing: the codes hold the trained adapter already."""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of every linear's update rule, named by linear."""
        return {
            f"{name}.{key}": value
            for name, layer in self.layers.items()
            for key, value in self.rule.state(layer).items()
        }

    def _convert(
        self,
        model: PreTrainedModel,
        sketches: Mapping[str, Tensor] | None = None,
        fresh: bool = True,
    ) -> None:
        shard = WHOLE if self.ranks is None else shard_of(self.ranks)
        self.layers = convert_to_melded(
            model,
            self.recipe,
            self.rule,
            sketches,
            fresh,
            shard,
            QUANTIZERS.get(self.recipe.weights),
        )
        if self.ranks is not None:
            self.shards = ShardedLayers(model, self.ranks)
        self._choose_gemms()

    @torch.no_grad()
    def _load(self, state: dict[str, Tensor]) -> None:
        for name, layer in self.layers.items():
            self.rule.load(layer, tensors_of(name, state))

    @contextmanager
    def _rows_change(self, changed: Tensor | None = None) -> Iterator[None]:
        """Change rows in the block; of a sharded model all ranks then learn of it, and `changed`
        becomes the sum over ranks.
        """
        if self.ranks is None:
            yield
            return
        if self.shards is not None:
            self.shards.discard()
        with self.ranks.barrier_or_raise():
            yield
        assert self.shards is not None, "the model is not converted"
        self.shards.publish(changed)

    def _choose_gemms(self) -> None:
        if (most_rows := self.recipe.microbatch_tokens) is not None:
            for weight in {layer.packed for layer in self.layers.values()}:
                choose_gemms_of(weight, most_rows)

    def _sketch(
        self, model: PreTrainedModel, microbatches: Sequence[Microbatch]
    ) -> dict[str, Tensor]:
        assert microbatches, "a_init 'gradient' looks at data"
        model.requires_grad_(False)
        linears = target_linears(model, self.recipe.target_modules)
        objective = create_objective(self.recipe)
        with gradient_sketches(model, linears, self.recipe.rank, self.recipe.seed) as sketches:
            for microbatch in microbatches:
                if objective.count(microbatch):
                    loss = objective.loss(model, microbatch)[0]
                    if not loss.isfinite():
                        raise LossNotFinite(
                            "the base model's loss is not finite, before any training; is its "
                            "checkpoint whole?",
                            "model",
                        )
                    # Nothing trains yet: the pass only feeds the sketches' hooks.
                    loss.backward()
        return sketches
