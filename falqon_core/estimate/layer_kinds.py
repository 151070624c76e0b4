"""The layers of a decoder by the linears that they have."""

from dataclasses import dataclass

from falqon_core.estimate.mixers import Mixer, Shapes

# Linears that read the same input and are called together, but those of other token mixers than
# attention, which are called one by one.
LINEARS_BY_INPUT = (
    ("q_proj", "k_proj", "v_proj", "qkv_proj"),
    ("o_proj",),
    ("gate_proj", "up_proj", "gate_up_proj"),
    ("down_proj",),
    ("w1", "w3"),
    ("w2",),
    ("in_proj_qkv",),
    ("in_proj_z",),
    ("in_proj",),
    ("out_proj",),
)


@dataclass(frozen=True)
class LinearGroup:
    """`num_outputs` are those of all its linears."""

    num_linears: int
    num_outputs: int
    num_inputs: int


@dataclass(frozen=True)
class LayerKind:
    """The layers of a decoder that have the same linears, `number` of them. `intermediate_size` is
    that of their MLP, 0 where only experts compute; `mixer` takes the place of attention.
    """

    number: int
    intermediate_size: int
    has_experts: bool
    linear_shapes: Shapes
    gate_shapes: Shapes  # of linears that never train
    num_queries: int  # numbers of a token's queries, 0 without attention
    num_keys: int
    mixer: Mixer | None = None

    @property
    def linear_groups(self) -> tuple[LinearGroup, ...]:
        """Return the linears of one layer, those that read the same input together."""
        shapes = self.linear_shapes
        groups = [[shapes[name] for name in names if name in shapes] for names in LINEARS_BY_INPUT]
        return tuple(
            LinearGroup(len(group), sum(outputs for outputs, _ in group), group[0][1])
            for group in groups
            if group
        )


def attention_shapes(hidden: int, queries: int, keys: int, fused: bool, gated: bool) -> Shapes:
    """Return the linears of attention; q, k and v are one where it is `fused`, and queries bring a
    gate along where it is `gated`.
    """
    output = {"o_proj": (hidden, queries)}
    if fused:
        return output | {"qkv_proj": (queries + 2 * keys, hidden)}
    inner = {"q_proj": (2 * queries if gated else queries, hidden)}
    return inner | dict.fromkeys(("k_proj", "v_proj"), (keys, hidden)) | output


def mlp_shapes(hidden: int, intermediate: int, fused: bool) -> Shapes:
    """Return the linears of an MLP, none where there is no MLP; gate and up are one where it is
    `fused`.
    """
    if not intermediate:
        return {}
    if fused:
        inner = {"gate_up_proj": (2 * intermediate, hidden)}
    else:
        inner = dict.fromkeys(("gate_proj", "up_proj"), (intermediate, hidden))
    return inner | {"down_proj": (hidden, intermediate)}
