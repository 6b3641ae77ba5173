"""The learner's pieces under the names that a config knows: model.block, model.norm, train.loss, optimizer.name.

What no field of a config names, the embeddings and the model as a whole, is put in its place by an interceptor
(`nn.intercept_methods`), which `jaxllm learn train` activates.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from jaxllm import GPT
from jaxllm.embeddings import PositionEmbedding, TokenEmbedding
from jaxllm.gpt import Block
from jaxllm.precision import at_least_float32

from ...optimizer import adamw as our_adamw
from ..course import piece
from ..folder import LearnFolder
from .callbacks import Called, JaxArrays, NumpyArrays, TorchArrays, Watch
from .loading import check_unchanged, load
from .optimizer import CalledUpdate, TracedUpdate, optimizer_of
from .parts import Parts

IN_MODEL = {  # a piece and its function that a model calls; of the others only larger pieces call something
    "token_embedding": "token_embedding",
    "position_embedding": "add_learned_positions",
    "linear_map": "linear",
    "scaled_dot_product": "scaled_dot_product_attention",
    "causal_attention": "causal_attention",
    "multi_head_attention": "multi_head_attention",
    "layer_norm": "layer_norm",
    "mlp": "mlp",
    "block": "block",
    "gpt": "gpt",
    "cross_entropy": "cross_entropy",
}
IN_BLOCK = {*IN_MODEL} - {"token_embedding", "position_embedding", "gpt", "cross_entropy"}


ARRAYS: dict[str, Callable[[], NumpyArrays]] = {"numpy": NumpyArrays, "jax": JaxArrays, "torch": TorchArrays}


class Bridge:
    """The pieces of a folder that are used, as functions of JAX, and what a config may name of them."""

    def __init__(self, folder: Path, pieces: Mapping[str, str]) -> None:
        """`pieces` are the names of the pieces with the sha256 of their files.

        Raises InputError for a piece whose file is another one, UserCodeError for an exception of a piece.
        """
        course = LearnFolder.open(folder)
        check_unchanged(course, pieces, "learned.py was written")
        self.pieces, self.language, self.watch = pieces, course.language, Watch(folder)
        self.functions = load(course, pieces)
        self.arrays = ARRAYS[course.language]()
        ours = Parts({})
        self.parts = Parts({name: self._in_jax(of, name, ours) for of, name in IN_MODEL.items() if of in pieces})
        self.Block = block_class(self.parts)
        self.layer_norm = self.parts.layer_norm

    def _in_jax(self, of: str, name: str, ours: Parts) -> Callable[..., Any]:
        """A function of theirs as one of JAX."""
        if self.language == "jax":
            return self.functions[of][name]
        vjp = next(function.vjp for function in piece(of).functions if function.name == name)
        return Called(name, self.functions[of][name], getattr(ours, name), self.arrays, self.watch, vjp)

    @property
    def fields(self) -> dict[str, dict[str, str]]:
        """The fields of a config that name one of their functions, by section."""
        used = {
            ("model", "block", "Block"): any(name in self.pieces for name in IN_BLOCK),
            ("model", "norm", "layer_norm"): "layer_norm" in self.pieces,
            ("train", "loss", "losses"): "cross_entropy" in self.pieces,
            ("optimizer", "name", "adamw"): "training_step" in self.pieces,
        }
        sections: dict[str, dict[str, str]] = {}
        for (section, key, function), is_used in used.items():
            if is_used:
                sections.setdefault(section, {})[key] = f"learned.py:{function}"
        return sections

    def losses(self, logits: Array, targets: Array) -> Array:
        """Their mean loss in the place of each token's: the mean of these, and its gradient, is theirs."""
        return jnp.broadcast_to(at_least_float32(self.parts.cross_entropy(logits, targets)), targets.shape)

    @property
    def adamw(self) -> Callable[..., optax.GradientTransformation]:
        """Their clipping and update as an optimizer of a config, or ours."""
        if (functions := self.functions.get("training_step")) is None:
            return our_adamw
        if self.language == "jax":
            return optimizer_of(TracedUpdate(**functions))
        return optimizer_of(CalledUpdate(**functions, arrays=self.arrays, watch=self.watch))

    def intercept(self, call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        """The interceptor: their `gpt` in the place of the whole model, or else their embeddings."""
        module, method = context.module, context.method_name
        if method != "__call__" or module.is_initializing():
            return call(*args, **kwargs)
        if type(module) is GPT and "gpt" in self.pieces:
            return at_least_float32(self.parts.gpt(module.variables["params"], args[0], module.config.n_heads))
        if isinstance(module, TokenEmbedding) and "token_embedding" in self.pieces:
            return self.parts.token_embedding(module.variables["params"]["table"], args[0])
        if isinstance(module, PositionEmbedding) and "position_embedding" in self.pieces:
            return self.parts.add_learned_positions(args[0], module.variables["params"]["table"])
        return call(*args, **kwargs)


def block_class(parts: Parts) -> type[nn.Module]:
    """The class of a block that has the parameters of `jaxllm.gpt.Block` and computes by the `parts`."""

    class LearnedBlock(Block):
        @nn.compact
        def __call__(self, x: Array, documents: Array | None = None) -> Array:
            if self.is_initializing():
                return Block.__call__(self, x, documents)
            return parts.block(self.variables["params"], x, self.config.n_heads).astype(x.dtype)

    return LearnedBlock
