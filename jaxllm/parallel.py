"""Where each parameter lies on a mesh of devices: logical axes by name, and rules from logical to mesh axes.

The mesh has the axes "data" (copies of the model), "fsdp" (parts that parameters are cut into; Rajbhandari et al. 2020,
ZeRO stage 3), "context" (parts that the positions of a row are cut into; Grattafiori et al. 2024, section 3.3.2) and
"tensor" (parts that heads and hidden features are cut into; Shoeybi et al. 2019, section 3). Each row of a batch lies
on one place of "data" and "fsdp", and each of its positions on one of "context". A layout changes where numbers are
computed, never what is computed.
"""

from collections.abc import Mapping

from jax.sharding import PartitionSpec

DATA, FSDP, CONTEXT, TENSOR = AXES = ("data", "fsdp", "context", "tensor")
ROWS = (DATA, FSDP)  # the axes that the rows of a batch are cut along
TOKENS = (ROWS, CONTEXT)  # those of tokens [B, T]

# The mesh axis of each logical axis; None: it is not cut.
RULES: dict[str, str | None] = {
    "vocab": None, "position": None, "embed": FSDP, "heads": TENSOR, "kv": TENSOR, "mlp": TENSOR, "vector": None,
    "expert": None,
}  # fmt: skip

# The logical axes of a parameter, by the names of its module and its own. A vector of D features is not worth cutting.
LOGICAL_AXES: dict[tuple[str, str], tuple[str, ...]] = {
    ("token_embedding", "table"): ("vocab", "embed"),
    ("ngram_embedding", "table"): ("vocab", "embed"),
    ("position_embedding", "table"): ("position", "embed"),
    ("head", "kernel"): ("embed", "vocab"),
    ("classifier", "kernel"): ("embed", "vocab"),
    ("query", "kernel"): ("embed", "heads"),
    ("query", "bias"): ("heads",),
    ("key", "kernel"): ("embed", "kv"),
    ("key", "bias"): ("kv",),
    ("value", "kernel"): ("embed", "kv"),
    ("value", "bias"): ("kv",),
    ("output", "kernel"): ("heads", "embed"),
    ("gate", "kernel"): ("embed", "mlp"),
    ("gate", "bias"): ("mlp",),
    ("up", "kernel"): ("embed", "mlp"),
    ("up", "bias"): ("mlp",),
    ("down", "kernel"): ("mlp", "embed"),
    ("router", "kernel"): ("embed", "expert"),
    ("gate", "kernels"): ("expert", "embed", "mlp"),
    ("up", "kernels"): ("expert", "embed", "mlp"),
    ("down", "kernels"): ("expert", "mlp", "embed"),
}
# The dimensions of a kernel [D, F] that those of a part of it have, of an adapter or of int8 weights; None: the rank.
PARTS: dict[str, tuple[int | None, ...]] = {"a": (0, None), "b": (None, 1), "weights": (0, 1), "scale": (1,)}


def parameter_axes(path: str, shape: tuple[int, ...], n_parts: int = 1) -> tuple[str, ...]:
    """The logical axis of each dimension of a parameter, whose path is as "block_0/mlp/up/kernel".

    The parts of a kernel (`jaxllm.lora`), as "block_0/mlp/up/kernel/a", have the axes of its dimensions. A parameter
    that is not in `LOGICAL_AXES`, such as one of a user's block, has "embed" for its largest dimension that `n_parts`
    divides; a vector has none.
    """
    names = [name for name in path.split("/") if name != "base"]  # the kernel within a `LoraKernel`
    axes = LOGICAL_AXES.get((names[-2], names[-1]), ()) if len(names) > 1 else ()
    if len(names) > 2 and names[-2] == "kernel" and names[-1] in PARTS:
        of_kernel = LOGICAL_AXES.get((names[-3], "kernel"), ("vector", "vector"))
        axes = tuple("vector" if i is None else of_kernel[i] for i in PARTS[names[-1]])
    if len(axes) == len(shape):
        return axes
    divisible = [i for i, size in enumerate(shape) if len(shape) > 1 and size % n_parts == 0]
    longest = max(divisible, key=lambda i: shape[i], default=None)
    return tuple("embed" if i == longest else "vector" for i in range(len(shape)))


def parameter_spec(path: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
    """The mesh axis that each dimension of a parameter is cut along, for a mesh of these sizes.

    A dimension is whole where its size is no multiple of that of the axis.
    """
    rules = [RULES[axis] for axis in parameter_axes(path, shape, sizes[FSDP])]
    return PartitionSpec(*(
        axis if axis and size % sizes[axis] == 0 else None for axis, size in zip(rules, shape, strict=True)
    ))  # fmt: skip


def parameter_specs(shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]) -> dict[str, PartitionSpec]:
    """`parameter_spec` of each parameter, by its path (`jaxllm.gpt.parameter_shapes`)."""
    return {path: parameter_spec(path, shape, sizes) for path, shape in shapes.items()}


def without_fsdp(spec: PartitionSpec) -> PartitionSpec:
    """Where a parameter lies while a block computes with it: whole, but for the part that "tensor" gives a device."""
    return PartitionSpec(*(None if axis == FSDP else axis for axis in spec))
