"""Inputs of layers that wait in host memory for their backward pass, where activations are computed
again: the device then keeps none of a layer but the one that it computes.

Copies have a stream of their own. In the forward pass an input leaves while its layer and the next
are computed; in the backward pass the input of a layer comes back while the layer behind it is
computed. The memory is one arena, locked for the card (meld/host_arena.py), for the inputs of one
pass; the next pass writes over them. On a CPU the same calls are plain copies, which save nothing
and show that no bits depend on it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import PreTrainedModel

from falqon_core.meld.host_arena import HostArena, arena_bytes


def offload_inputs(model: PreTrainedModel) -> None:
    """Offload the inputs of all decoder layers of `model`, which are checkpointed, but for the
    last: its backward pass comes at once.
    """
    *layers, _ = model.base_model.layers
    offload = ActivationOffload(model.get_input_embeddings().weight.device, len(layers))
    for index, layer in enumerate(layers):
        layer.forward = _offloading(layer.forward, offload, index)


def _offloading(
    forward: Callable[..., Any], offload: "ActivationOffload", index: int
) -> Callable[..., Any]:
    def offloading(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        with offload.of_layer(index, hidden_states):
            return forward(hidden_states, *args, **kwargs)

    return offloading


class _Offloaded(NamedTuple):
    """The place of the input of a layer."""

    layer: int


class ActivationOffload:
    """The inputs of `num_layers` layers, numbered from 0, which run in that order."""

    def __init__(self, device: torch.device, num_layers: int) -> None:
        """`device` is the one that computes."""
        self._device = device
        self._num_layers = num_layers
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arena = HostArena(0, device)
        self._inputs: dict[int, Tensor] = {}
        self._arriving: dict[int, Tensor] = {}

    @contextmanager
    def of_layer(self, layer: int, hidden_states: Tensor) -> Iterator[None]:
        """Offload `hidden_states` [B, T, H] where autograd saves them in the block, which computes
        the layer.
        """
        # Not the tensor itself: autograd keeps these functions, and with them all that they name.
        place = (hidden_states.data_ptr(), hidden_states.shape)

        def pack(tensor: Tensor) -> Tensor | _Offloaded:
            # Rotary tables and masks are those of all layers and stay.
            if (tensor.data_ptr(), tensor.shape) != place:
                return tensor
            self._send(layer, tensor.detach())
            return _Offloaded(layer)

        def unpack(packed: Tensor | _Offloaded) -> Tensor:
            return self._receive(packed.layer) if isinstance(packed, _Offloaded) else packed

        with saved_tensors_hooks(pack, unpack):
            yield

    def _send(self, layer: int, tensor: Tensor) -> None:
        if layer == 0:
            self._start_pass(tensor)
        with self._copying():
            self._inputs[layer] = self._arena.place(tensor)
        if self._stream is not None:
            # The allocator gives the memory to others only after the copy.
            tensor.record_stream(self._stream)

    def _start_pass(self, tensor: Tensor) -> None:
        """Take the memory of a pass whose layers read inputs like `tensor`."""
        self._inputs.clear()
        self._arriving.clear()
        num_bytes = arena_bytes([tensor] * self._num_layers)
        if self._arena.num_bytes < num_bytes:
            if self._stream is not None:
                self._stream.synchronize()
            self._arena = HostArena(num_bytes, self._device)
            self._arena.lock()
        self._arena.clear()

    def _receive(self, layer: int) -> Tensor:
        """Return the input of `layer` on the device, and have that of the layer before it sent."""
        if layer not in self._arriving:
            self._fetch(layer)
        tensor = self._arriving.pop(layer)
        if self._stream is not None:
            reader = torch.cuda.current_stream(self._device)
            reader.wait_stream(self._stream)
            tensor.record_stream(reader)
        if layer > 0:
            self._fetch(layer - 1)
        return tensor

    def _fetch(self, layer: int) -> None:
        with self._copying():
            copy = self._inputs[layer].to(self._device, non_blocking=True, copy=True)
        self._arriving[layer] = copy

    def _copying(self) -> AbstractContextManager[object]:
        """Copy in the block on the stream of copies, after all that the device computes by now."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._stream)
