"""What a traced step did: every operation with its launches and bytes, and the bytes alive.

A dispatch mode sees every aten operation on tensors of the traced device (torch's meta device:
shapes, dtypes and strides without memory). Bytes are those that an operation must read and write
once, whatever a cache saves; views and allocations launch nothing. Live bytes are those of
storages, rounded up to 512 as CUDA's allocator does.
"""

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "_reshape_alias",
        "t",
        "transpose",
        "permute",
        "slice",
        "select",
        "expand",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "as_strided",
        "lift_fresh",
        "unfold",
        "diagonal",
        "narrow",
    ]
)
ALLOCATIONS = frozenset(["empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"])
FILLS = frozenset(
    [
        "zeros",
        "zero_",
        "fill_",
        "zeros_like",
        "full",
        "full_like",
        "ones",
        "ones_like",
        "new_zeros",
        "new_ones",
        "new_full",
    ]
)
# of their tables only as much as the index names
READS_SOME = frozenset({"embedding", "gather", "index", "index_select"})
WRITES_SOME = frozenset({"scatter_add_", "index_put", "index_put_"})
GEMMS = frozenset(
    {
        "_grouped_mm",
        "mm",
        "bmm",
        "addmm",
        "_scaled_mm",
        "triton.grad_a_kernel",
        "triton.grad_b_kernel",
    }
)
# torch's kernels over lists: at most so many tensors, chunks of so many elements, and chunks in a
# launch (aten/src/ATen/native/cuda/MultiTensorApply.cuh, of four lists)
LIST_TENSORS, CHUNK_ELEMENTS, LIST_CHUNKS = 36, 65536, 320


@dataclass
class Entry:
    """Calls of one operation; of a product those with the same number of rows."""

    name: str
    num_rows: int
    launches: int = 0
    num_bytes: int = 0
    flops: float = 0.0


@dataclass
class Ledger:
    """`entries` by operation and rows; `waits` of the host for the device; `live` and `peak` in
    bytes.
    """

    entries: dict[tuple[str, int], Entry] = field(default_factory=dict)
    waits: int = 0
    live: int = 0
    peak: int = 0

    @property
    def launches(self) -> int:
        return sum(entry.launches for entry in self.entries.values())

    @property
    def gemm_flops(self) -> float:
        return sum(entry.flops for entry in self.entries.values())

    @property
    def gemm_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries.values() if entry.name in GEMMS)

    @property
    def other_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.entries.values() if entry.name not in GEMMS)

    def add(
        self, name: str, num_bytes: int, flops: float = 0.0, launches: int = 1, num_rows: int = 0
    ) -> None:
        entry = self.entries.setdefault((name, num_rows), Entry(name, num_rows))
        entry.launches += launches
        entry.num_bytes += num_bytes
        entry.flops += flops

    def start_step(self) -> None:
        """Forget all but what is alive."""
        self.entries.clear()
        self.waits = 0
        self.peak = self.live

    def allocate(self, num_bytes: int) -> None:
        self.live += num_bytes
        self.peak = max(self.peak, self.live)

    def free(self, num_bytes: int) -> None:
        self.live -= num_bytes


class Tracer(TorchDispatchMode):
    """Writes a ledger. Refuses an operation on the traced device that reads a tensor of another,
    but for a number (0-dim); reading a traced tensor gives ones, and counts as a wait.
    """

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self._ledger = ledger
        self._storages: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        inputs = tensors_of((args, kwargs))
        is_traced = any(tensor.device == DEVICE for tensor in inputs)
        if name == "_local_scalar_dense" and is_traced:
            self._ledger.waits += 1
            return 1.0 if inputs[0].is_floating_point() else 1
        if name in ("_to_copy", "copy_") and is_traced and kwargs.get("device", DEVICE) != DEVICE:
            return self._read(inputs[0])
        output = func(*args, **kwargs)
        outputs = tensors_of(output)
        for tensor in outputs:
            self._track(tensor)
        if is_traced or any(tensor.device == DEVICE for tensor in outputs):
            self._record(name, inputs, outputs)
        return output

    def _read(self, tensor: Tensor) -> Tensor:
        self._ledger.waits += 1
        return torch.ones(tensor.shape, dtype=tensor.dtype)

    def _record(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        if name in VIEWS or name in ALLOCATIONS:
            return
        if name == "_scaled_mm":
            check_scaled_mm(*inputs)
        if name not in ("_to_copy", "copy_"):  # the two that move between devices
            for tensor in inputs:
                assert tensor.device == DEVICE or tensor.dim() == 0, f"{name} reads {tensor.device}"
        num_bytes = moved_bytes(name, inputs, outputs)
        self._ledger.add(
            name,
            num_bytes,
            gemm_flops(name, inputs),
            list_launches(name, inputs),
            gemm_rows(name, inputs),
        )

    def _track(self, tensor: Tensor) -> None:
        if tensor.device != DEVICE:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        num_bytes = -(-storage.nbytes() // 512) * 512

        def forget(_: object) -> None:
            self._ledger.free(num_bytes)
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, forget)
        self._ledger.allocate(num_bytes)


def tensors_of(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def moved_bytes(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    if name in ("_to_copy", "copy_"):
        return bytes_of([*inputs[-1:], *outputs])
    if name in FILLS:
        return bytes_of(outputs)
    if name in READS_SOME:
        return 2 * bytes_of(outputs) + bytes_of(inputs[1:])
    if name in WRITES_SOME:
        return 3 * bytes_of(inputs[-1:]) + bytes_of(inputs[1:-1])
    return bytes_of([*inputs, *outputs])


def gemm_operands(name: str, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    return inputs[1:3] if name == "addmm" else inputs[:2]


def gemm_flops(name: str, inputs: Sequence[Tensor]) -> float:
    if name not in GEMMS:
        return 0.0
    left, right = gemm_operands(name, inputs)
    batch = left.shape[0] if name == "bmm" else 1
    return 2.0 * batch * left.shape[-2] * left.shape[-1] * right.shape[-1]


def gemm_rows(name: str, inputs: Sequence[Tensor]) -> int:
    """Return the rows of a product, of a grouped one those of a group on average."""
    if name not in GEMMS:
        return 0
    left, right = gemm_operands(name, inputs)
    return left.shape[-2] // (len(right) if name == "_grouped_mm" else 1)


def list_launches(name: str, inputs: Sequence[Tensor]) -> int:
    """Return how many launches an operation takes: one, or those of a kernel over lists."""
    if not name.startswith(("_foreach_", "_fused_")) or not inputs:
        return 1
    # of the lists, the longest tensors are as many as there are parameters
    num_lists = 4 if name.startswith("_fused_adam") else 1
    sizes = sorted((tensor.numel() for tensor in inputs), reverse=True)
    sizes = sizes[: max(1, len(sizes) // num_lists)]
    chunks = sum(-(-size // CHUNK_ELEMENTS) for size in sizes)
    return max(-(-len(sizes) // LIST_TENSORS), -(-chunks // LIST_CHUNKS))


def check_scaled_mm(a: Tensor, b: Tensor, *scales: Tensor) -> None:
    """Assert what cuBLAS asks of FP8 operands: e4m3, a by rows and b by columns, K and N multiples
    of 16, addresses of 16 bytes, and scales fp32, one each or one a row of a and a column of b.
    """
    (num_rows, num_inner), num_columns = a.shape, b.shape[1]
    assert a.dtype == b.dtype == torch.float8_e4m3fn, (a.dtype, b.dtype)
    assert a.stride() == (num_inner, 1), a.stride()
    assert b.stride() == (1, num_inner), b.stride()
    assert num_inner % 16 == num_columns % 16 == 0, (num_inner, num_columns)
    assert a.storage_offset() % 16 == b.storage_offset() % 16 == 0
    allowed = ({(num_rows, 1), ()}, {(1, num_columns), ()})
    for scale, shapes in zip(scales, allowed, strict=True):
        assert scale.dtype == torch.float32, scale.dtype
        assert scale.is_contiguous(), scale.stride()
        assert tuple(scale.shape) in shapes, (scale.shape, shapes)
        assert scale.storage_offset() * 4 % 16 == 0
