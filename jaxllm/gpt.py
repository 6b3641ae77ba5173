"""The GPT: embeddings, blocks of attention and MLP (`jaxllm.block`), a final norm, a head.

By default GPT-2 (Radford et al. 2019; shapes and initialisation as in the released weights); the options of GPTConfig
make it a Llama, Qwen, Gemma, OLMo 2 or GPT-NeoX. The NumPy twin is `jaxllm.reference.gpt`. Modules return arrays only;
their intermediates are captured from outside (`apply_with_intermediates`), so that a training step does not pay for
them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import module as linen
from flax.linen.initializers import normal
from flax.traverse_util import flatten_dict
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.attention import document_numbers
from jaxllm.block import Block
from jaxllm.config import GPTConfig, check_predicts_tokens
from jaxllm.embeddings import NgramEmbedding, PositionEmbedding, TokenEmbedding
from jaxllm.experts import ExpertKernels
from jaxllm.fast.quantised_weights import Table, parameter
from jaxllm.layers import INIT_STD, Dropout, Linear, Norm, linear
from jaxllm.loss import head_loss, takes_hidden, token_losses
from jaxllm.precision import at_least_float32
from jaxllm.softcap import change_of_logits
from jaxllm.utils.errors import InputError

Model = TypeVar("Model", bound="GPT")
MAPS_OF_PARENTS = ("output", "down", "head", "classifier")  # whose results are those of their parents


class Head(nn.Module):
    """An untied output head: logits in at least float32. Parameter: kernel [D, V]."""

    vocab_size: int
    init_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        kernel = parameter(self, "kernel", normal(self.init_std), (x.shape[-1], self.vocab_size))
        return at_least_float32(linear(x, kernel))


class GPT(nn.Module):
    """tokens -> logits, float32 (float64 where the parameters are).

    With `config.separator`, a document begins at each such token, and no token attends to another document. Positions
    continue from one document to the next, as in the training of Llama 3 (Grattafiori et al. 2024, section 3.2).

    A row may hold several texts (`documents` [B, T], the number of each token's text, whose tokens follow each other).
    Then nothing depends on another text: `positions` [B, T] are the places of the tokens in their texts, from 0 on.
    Rotary positions need none, because scores depend on distances within a text.

    With `config.n_classes` the logits [B, T, C] are those of a linear `classifier` in place of the head's. The last
    token of a text has read all of it, so its logits classify the text.

    `init(key, tokens)["params"]` is a plain nested dict; `apply({"params": params}, tokens)` is a pure function.
    `dtype` is the dtype of the computation, None for that of the parameters. The parameters keep their dtype, and
    gradients into the token table are summed in it. Dropout is active where a key is given:
    `apply({"params": params}, tokens, rngs={"dropout": key})`.

    `block` is the class of the blocks, None for `config.block` or `Block`. A block that returns a tuple passes what
    follows x to the next one as further arguments. `nn.remat(Block)` computes each block again in the backward instead
    of keeping its intermediates. `nn.jit(Block)` traces all blocks once, which compiles faster; dropout masks and
    initial parameters are then other ones. Interceptors could not tell such blocks apart and are refused.

    Raises InputError for such blocks where interceptors are active, for tokens that are not [B, T] integers or longer
    than the context, and for `documents` where the config cannot keep texts apart. Token values are data on the device
    and are not checked: one outside the vocabulary makes the logits of its row NaN.
    """

    config: GPTConfig
    dtype: str | None = None
    block: type[nn.Module] | None = None

    # `nowrap` hides all methods but `__call__` from interceptors, which would mistake their results for logits. A
    # setup that is not wrapped has to name the parent of its modules.
    @nn.nowrap
    def setup(self) -> None:
        c = self.config
        self.token_embedding = TokenEmbedding(c.vocab_size, c.d_model, parent=self)
        if c.ngrams > 1:
            self.ngram_embedding = NgramEmbedding(c.ngrams, c.ngram_rows, parent=self)
        if c.adds_positions:
            self.position_embedding = PositionEmbedding(c.context_length, c.position, parent=self)
        self.dropout = Dropout(c.dropout, parent=self, name="Dropout_0")  # the name is part of its key
        block: Any = block_class(self)
        _check_blocks_are_told_apart(block)
        self.blocks = [block(c.of_layer(i), parent=self, name=f"block_{i}") for i in range(c.n_layers)]
        self.norm_final = Norm(c.norm, c.use_bias, c.norm_epsilon, parent=self)
        std = 0.0 if c.zero_init else INIT_STD
        if c.n_classes:
            self.classifier = Linear(c.n_classes, init_std=std, parent=self)
        elif not c.tie_embeddings:
            self.head = Head(c.vocab_size, std, parent=self)

    def __call__(
        self, tokens: Int[Array, "B T"], documents: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T V"]:  # fmt: skip
        return self.logits(self.hidden(tokens, documents, positions))

    @nn.nowrap
    def hidden(
        self, tokens: Int[Array, "B T"], documents: Int[Array, "B T"] | None = None,
        positions: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T D"]:  # fmt: skip
        """What the head reads, from tokens."""
        check_tokens(tokens, self.config.context_length)
        check_packed(self.config, documents, positions)
        separator = self.config.separator
        documents = documents if separator is None else document_numbers(tokens, separator, documents)
        carried: tuple[Any, ...] = (self.embed(tokens, positions, documents),)
        for block in self.blocks:
            out = block(*carried, documents=documents)
            carried = out if isinstance(out, tuple) else (out,)
        return self.normed(carried[0])

    @nn.nowrap
    def normed(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """What the head reads: the final norm of the residual stream, divided by `config.width_ratio`."""
        x = self.norm_final(x)
        return x if self.config.width_ratio == 1 else x / self.config.width_ratio

    @nn.nowrap
    def embed(
        self, tokens: Int[Array, "B S"], positions: Int[Array, "B T"] | None = None,
        documents: Int[Array, "B S"] | None = None, n_before: int = 0,
    ) -> Float[Array, "B T D"]:  # fmt: skip
        """The input of the first block; the positions are 0 to T - 1 if not given.

        The first `n_before` of the tokens, S - T, are only parts of n-grams. No n-gram reaches into another document.
        """
        c = self.config
        x = self.token_embedding(tokens[:, n_before:])
        x = self.ngram_embedding(x, tokens, documents) if c.ngrams > 1 else x
        x = x * c.d_model**0.5 if c.scale_embeddings else x
        x = self.position_embedding(x, positions) if c.adds_positions else x
        return self.dropout(x if self.dtype is None else x.astype(self.dtype))

    @nn.nowrap
    def logits(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """The result of the head, of the token table or of the untied one, perhaps changed."""
        if self.config.n_classes:
            y = at_least_float32(self.classifier(x))
        else:
            y = self.token_embedding.logits(x) if self.config.tie_embeddings else self.head(x)
        change = change_of_logits(self.config)
        return y if change is None else change(y)


def block_class(model: GPT) -> type[nn.Module]:
    """The class of a model's blocks."""
    own = model.config.block
    return model.block or (Block if own is None else cast(type[nn.Module], own.function))


def interceptors() -> tuple[Any, ...]:
    """The functions given to `nn.intercept_methods` that are active in this thread. Flax has no public name for it."""
    return tuple(linen._global_interceptor_stack)


def traced_once(model: Model) -> Model:
    """The model with all blocks from one trace, which compiles sooner; unchanged where interceptors are active."""
    return model if interceptors() else model.clone(block=nn.jit(block_class(model)))


def _check_blocks_are_told_apart(block: type[nn.Module]) -> None:
    """Raises InputError if interceptors are active and `block` is made by `nn.jit`, whatever it is wrapped in.

    An interceptor would act on all blocks or on none: `nn.jit` does not run the Python code of a block that it has
    traced before.
    """
    if interceptors() and any(one.__name__ == f"Jit{one.__bases__[0].__name__}" for one in block.__mro__[:-1]):
        raise InputError(
            f"the model's block is {block.__name__}, made by nn.jit, which traces all blocks once, so interceptors and "
            "patches cannot tell them apart; use the block without nn.jit, as in model.clone(block=Block)."
        )


def summed_loss(
    model: GPT, params: Any, tokens: Int[Array, "B T"], targets: Int[Array, "B T"],
    weights: Float[Array, "B T"] | None = None, rngs: Any = None, loss: Callable[..., Array] | None = None,
    **packed: Any,
) -> Float[Array, ""]:  # fmt: skip
    """The sum of the token losses, times the weights where given.

    `head_loss` computes it in far less memory than the logits need. With interceptors active it is the loss of the
    logits that `model.apply` returns, which they may change; so it is for a classifier. `rngs` are those of `apply`,
    and `packed` its `documents` and `positions`. A `loss` in place of the cross-entropy returns the token losses [B, T]
    of (logits, targets) or, if it has three arguments, of (hidden states, table of the head [V, D], targets).
    """
    c, change = model.config, change_of_logits(model.config)
    apply = partial(model.apply, {"params": params}, tokens, rngs=rngs, **packed)
    if loss is None and not c.n_classes and not interceptors():
        return head_loss(head_table(c, params), cast(Array, apply(method="hidden")), targets, weights, change)
    if loss is not None and takes_hidden(loss):
        if change is not None or interceptors():
            raise InputError(
                f"the loss {loss} reads hidden states, so that a change of the logits, by model.logits, "
                "model.logits_softcap or an interceptor, would be left out; give a loss of (logits, targets)."
            )
        losses = loss(apply(method="hidden"), head_table(c, params), targets)
    else:
        losses = (loss or token_losses)(cast(Array, apply()), targets)
    return (losses if weights is None else losses * weights).sum()


def head_table(config: GPTConfig, params: Any) -> Float[Table, "V D"]:
    """The table with which the head makes logits: the token table, or that of an untied head.

    Raises InputError for a classifier, which has no head.
    """
    check_predicts_tokens(config)
    return params["token_embedding"]["table"] if config.tie_embeddings else params["head"]["kernel"].T


def check_tokens(tokens: Array, most: int, limit: str = "the model's context_length") -> None:
    """Raises InputError unless tokens are integers [B, T] and T is at most `most`, which a message calls `limit`."""
    if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise InputError(f"tokens must be integers of shape [B, T], but they are {tokens.dtype} {tuple(tokens.shape)}.")
    if tokens.shape[1] > most:
        raise InputError(
            f"{tokens.shape[1]} tokens are more than {limit} = {most}; "
            "shorten them or use a model with a longer context."
        )


def check_packed(config: GPTConfig, documents: Array | None, positions: Array | None) -> None:
    """Raises InputError for positions without documents, and for documents that the config's functions would mix."""
    if documents is None and positions is not None:
        raise InputError("positions are given without documents; give both, the number of each token's text too.")
    for field in ("visible", "score"):
        if documents is not None and getattr(config, field) is not None:
            raise InputError(
                f"model.{field} is {getattr(config, field)}, which is given places in the row and not in its text, so "
                "a row cannot hold several texts; set tune.packing = false."
            )


def apply_with_intermediates(
    model: GPT, params: dict, tokens: Int[Array, "B T"], rngs: Any = None
) -> tuple[Float[Array, "B T V"], dict[str, Array]]:
    """Logits and what every module returned, by path. `rngs` are those of `apply`.

    Keys: token_embedding, ngram_embedding and position_embedding (the sums up to there), for each block block_0/norm_1,
    block_0/attention/query, .../key, .../value, .../weights [B, H, T, T], block_0/attention (its result),
    block_0/residual_1, block_0/norm_2, block_0/mlp/up (of experts block_0/mlp/router), block_0/mlp, block_0 (its
    result), then norm_final, logits.
    """
    options = {"rngs": rngs, "capture_intermediates": _is_named, "mutable": ["intermediates"]}
    logits, state = model.apply({"params": params}, tokens, **options)
    seen = {}
    for path, (*_, value) in flatten_dict(state["intermediates"]).items():  # a block may call the block that it extends
        path = path[:-1] if path[-1] == "__call__" else path
        seen["/".join(path) or "logits"] = value[0] if isinstance(value, tuple) else value  # x, without a block's carry
    return logits, seen


def _is_named(module: nn.Module, method: str) -> bool:
    """Whether a result gets a name: not that of dropout, nor of a last map, nor kernels."""
    nameless = isinstance(module, Dropout | ExpertKernels) or module.name in MAPS_OF_PARENTS
    return method == "__call__" and not nameless


@lru_cache
def parameter_shapes(config: GPTConfig) -> Mapping[str, tuple[int, ...]]:
    """The shapes of all parameters by their paths, such as "block_0/mlp/up/kernel". Nothing is computed."""
    alike = config.block is None  # a user's block may have other parameters where it is given a carry
    model = GPT(replace(config, n_layers=1) if alike else config)
    key, tokens = jax.eval_shape(jax.random.key, 0), jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = flatten_dict(jax.eval_shape(model.init, key, tokens)["params"], sep="/")
    return {
        path.replace("block_0", f"block_{i}"): tuple(leaf.shape)
        for path, leaf in shapes.items()
        for i in range(config.n_layers if alike and path.startswith("block_0") else 1)
    }


def count_parameters(config: GPTConfig) -> int:
    """The number of parameters."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())
