"""`jaxllm.generate.generate` by two compiled programs: one reads the prompts at once, one loops token by token.

All shapes are static; lengths are rounded up to a few sizes, so that another prompt or another number of tokens rarely
compiles again. Prompts of unequal lengths are aligned at their ends. When a row has filled the model's context, all
rows are read into the cache again.

With `lookup` the second loops reading by reading, each of which may yield several tokens (`jaxllm.fast.lookup`).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from inspect import unwrap
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from jaxllm.array import Array
from jaxllm.cache import Cache
from jaxllm.config import check_predicts_tokens
from jaxllm.fast import formula
from jaxllm.fast.attention import looks_ahead
from jaxllm.fast.cached_gpt import CachedBlock, CachedGPT
from jaxllm.fast.few_rows import compiled
from jaxllm.fast.lookup import column, read_drafts
from jaxllm.fast.quantised_weights import cast_kernels
from jaxllm.generate import PLAIN, Sampling, check_lookup, cut_prompts, draw, draw_keys, non_finite_logits
from jaxllm.generate import generate as textbook
from jaxllm.gpt import GPT, Block, block_class, interceptors
from jaxllm.utils.errors import InputError

CACHEABLE = [unwrap(block.__call__) for block in (Block, CachedBlock)]  # also under nn.jit and nn.remat
# Lengths are rounded up to a power of two from the first on, beyond the second to multiples of it.
SHORTEST, STEP = 16, 256


def generate(
    model: GPT, params: Any, prompts: Any, key: Key[Array, ""], max_new_tokens: int, sampling: Sampling = PLAIN,
    vocab_size: int | None = None, stop_tokens: Sequence[int] = (), begin_token: int | None = None, lookup: int = 0,
) -> Int[np.ndarray, "B N"]:  # fmt: skip
    """`jaxllm.generate.generate` through the cache.

    With `lookup` a token may differ where two logits are closer than rounding: a product of several rows may add in
    another order than that of one. Then either token is right.

    A model that cannot be read through the cache (`why_not_cached`) is read by the textbook's loop.
    """
    rest = (prompts, key, max_new_tokens, sampling, vocab_size, stop_tokens, begin_token, lookup)
    if why_not_cached(model):
        return formula(textbook)(model, params, *rest)
    return start_generation(model, params, *rest).advance(max_new_tokens - 1).tokens()


def why_not_cached(model: GPT) -> str:
    """Why a model cannot be read token by token through the cache, as the beginning of a sentence; empty if it can."""
    c = model.config
    if type(model).__call__ not in (GPT.__call__, CachedGPT.__call__):
        return (
            f"{type(model).__name__} has a __call__ of its own, which reading through the cache does not call; "
            "what flax's nn.intercept_methods changes, it sees"
        )
    if c.block is not None or unwrap(block_class(model).__call__) not in CACHEABLE:
        return f"the block is {c.block or model.block}, which reading through the cache does not call"
    if looks_ahead(c.visible, c.context_length, c.separator is not None):
        return f"model.visible is {c.visible}, which lets tokens attend to later ones, so that no token can be cached"
    return ""


def largest(x: Float[Array, "B V"]) -> Int[Array, "B"]:
    """`jaxllm.generate.largest` in a loop.

    XLA 0.12 on a CPU compiles a loop that contains neither a sort nor a call into one single-threaded function,
    however much the loop reads (SmallWhileLoopHoistingPass). An argmax is neither; `top_k` is a call.
    """
    return jax.lax.top_k(x, 1)[1][:, 0].astype(jnp.int32)


class GenerationState(NamedTuple):
    """Texts and their cache during generation: an explicit pytree of fixed shapes."""

    text: Int[Array, "B N"]  # padding, prompt, tokens drawn, room
    length: Int[Array, ""]  # columns of the text in use; the last one is not in the cache yet
    start: Int[Array, "B"]  # column of the first token that the model sees of each row
    done: Bool[Array, "B"]  # a stop token was drawn, which is repeated from there on
    drawn: Int[Array, ""]  # tokens drawn
    seen: Bool[Array, "B V"] | None  # tokens of the text, where a penalty needs them
    cache: Cache
    readings: Int[Array, ""]  # after that of the prompt
    finite: Bool[Array, ""]  # the largest logit of each row that was not done was finite, at every token


class _Plan(NamedTuple):
    """The shapes of a generation and the other constants of its program."""

    width: int  # columns of the text
    begin_token: int | None  # the first token that the model sees, also where it sees only the end of a text
    slides: bool  # whether a row may outgrow the context
    vocab_size: int | None
    lookup: int  # tokens that are drafted for each reading
    interceptors: tuple[Any, ...]  # active during tracing; other ones make another program


class Generation(NamedTuple):
    """A generation in progress: `advance` draws more tokens, `tokens` returns those that were drawn."""

    model: GPT
    params: Any
    plan: _Plan
    sampling: Sampling
    stop: Array
    key: Array
    state: GenerationState

    def advance(self, n: int) -> "Generation":
        """The generation with up to n more tokens in each row. The buffers of the old state are donated."""
        plan = self.plan._replace(interceptors=interceptors())
        fixed = (self.model, plan, self.params, self.sampling, self.stop, self.key)
        return self._replace(state=_advance(*fixed, self.state, jnp.asarray(n, jnp.int32)))

    def tokens(self) -> Int[np.ndarray, "B N"]:
        """The drawn tokens; a stop token is repeated to the end of its row.

        Raises NonFiniteError where a token was drawn from logits that hold NaN or infinity; -inf excludes a token.
        """
        if not bool(self.state.finite):
            raise non_finite_logits()
        end = int(self.state.length)
        return np.asarray(self.state.text)[:, end - int(self.state.drawn) : end]


def stream(generation: Generation, max_new_tokens: int) -> Iterator[Int[np.ndarray, "B N"]]:
    """Yield the tokens of a generation as they are drawn, until all rows are done or have `max_new_tokens`."""
    given = 0
    while True:
        new = generation.tokens()[:, given:]
        given += new.shape[1]
        yield new
        if given >= max_new_tokens or bool(generation.state.done.all()):
            return
        generation = generation.advance(min(1 + generation.plan.lookup, max_new_tokens - given))


def start_generation(
    model: GPT, params: Any, prompts: Any, key: Key[Array, ""], max_new_tokens: int, sampling: Sampling = PLAIN,
    vocab_size: int | None = None, stop_tokens: Sequence[int] = (), begin_token: int | None = None, lookup: int = 0,
) -> Generation:  # fmt: skip
    """Reads the prompts and draws the first token of each row; arguments and errors as in `generate`.

    A `CachedGPT` is used as it is: with `nn.jit(CachedBlock)` all blocks come from one trace, which starts sooner.
    Raises InputError for a classifier, for a model that cannot be read through the cache (`why_not_cached`), and for
    what `check_lookup` refuses.
    """
    if reason := why_not_cached(model):
        raise InputError(f"{reason}; use `jaxllm.generate.generate`, which reads the whole text for each token.")
    check_predicts_tokens(model.config)
    check_lookup(lookup, sampling)
    context = model.config.context_length
    rows = cut_prompts(prompts, context, max_new_tokens, begin_token)
    longest = max(len(row) for row in rows)
    prompt = min(_rounded(longest), context)
    text = np.zeros((len(rows), prompt), np.int32)
    for i, row in enumerate(rows):
        text[i, prompt - len(row) :] = row
    start = jnp.asarray([prompt - len(row) for row in rows], jnp.int32)
    slides = longest + max_new_tokens - 1 > context
    plan = _Plan(_rounded(prompt + max_new_tokens), begin_token, slides, vocab_size, lookup, interceptors())
    stop = jnp.asarray(stop_tokens, jnp.int32)
    state = _start(model, plan, params, sampling, stop, key, jnp.asarray(text), start)
    return Generation(model, params, plan, sampling, stop, key, state)


def _rounded(length: int) -> int:
    if length > STEP:
        return -(-length // STEP) * STEP
    return max(SHORTEST, 1 << (length - 1).bit_length())


@partial(jax.jit, static_argnames=("model", "plan"))
def _start(
    model: GPT, plan: _Plan, params: Any, sampling: Sampling, stop: Array, key: Array, text: Array, start: Array
) -> GenerationState:  # fmt: skip
    n_rows, prompt = text.shape
    context = model.config.context_length
    # Reading again fills as many slots as the context has. The full row keeps half of them, then grows again.
    capacity = context + max(prompt, context - context // 2) if plan.slides else plan.width
    capacity += plan.lookup  # drafted tokens are read beyond the end
    logits, cache = _read_prompt(model, params, text, start, capacity)
    seen = None
    if sampling.repetition_penalty is not None:
        within = jnp.arange(prompt)[None] >= start[:, None]
        ids = jnp.where(within, text, model.config.vocab_size)  # padding marks no token
        seen = jnp.zeros((n_rows, model.config.vocab_size), bool)
        seen = seen.at[jnp.arange(n_rows)[:, None], ids].set(True, mode="drop")
    text = jnp.pad(text, ((0, 0), (0, plan.width - prompt)))
    zero = jnp.zeros((), jnp.int32)
    done = jnp.zeros(n_rows, bool)
    state = GenerationState(text, zero + prompt, start, done, zero, seen, cache, zero, jnp.asarray(True))
    return _draw_next(plan, sampling, stop, key, state, logits)


def _read_prompt(model: GPT, params: Any, tokens: Array, start: Array, capacity: int) -> tuple[Array, Cache]:
    return _read(model, params, tokens, Cache.empty(model.config, start, capacity, _dtype(model, params)))


def _read(model: GPT, params: Any, tokens: Array, cache: Cache, follow: bool = False) -> tuple[Array, Cache]:
    cached = model if isinstance(model, CachedGPT) else CachedGPT(model.config, model.dtype)
    with compiled():
        params = cast_kernels(params, _dtype(model, params))
        return cast(tuple[Array, Cache], cached.apply({"params": params}, tokens, cache, follow))


def _dtype(model: GPT, params: Any) -> Any:
    """The dtype of the computation."""
    return model.dtype or params["token_embedding"]["table"].dtype


def _draw_next(
    plan: _Plan, sampling: Sampling, stop: Array, key: Array, state: GenerationState, logits: Array
) -> GenerationState:  # fmt: skip
    """The state with one more token in each row, drawn from logits [B, V]."""
    n_rows = state.text.shape[0]
    seen = None if state.seen is None else state.seen[:, : plan.vocab_size]
    logits = logits[:, : plan.vocab_size]
    finite = state.finite & (jnp.isfinite(logits.max(-1)) | state.done).all()
    token = draw(logits, draw_keys(key, state.drawn, n_rows), sampling, seen)
    last = jax.lax.dynamic_index_in_dim(state.text, state.length - 1, 1, keepdims=False)
    token = jnp.where(state.done, last, token)
    text = jax.lax.dynamic_update_slice_in_dim(state.text, token[:, None], state.length, 1)
    done = state.done | (token[:, None] == stop[None]).any(1)
    seen = None if state.seen is None else state.seen.at[jnp.arange(n_rows), token].set(True)
    length, drawn = state.length + 1, state.drawn + 1
    return state._replace(text=text, length=length, done=done, drawn=drawn, seen=seen, finite=finite)


@partial(jax.jit, static_argnames=("model", "plan"), donate_argnames="state")
def _advance(
    model: GPT, plan: _Plan, params: Any, sampling: Sampling, stop: Array, key: Array, state: GenerationState, n: Array
) -> GenerationState:  # fmt: skip
    end = jnp.minimum(state.length + n, plan.width)

    def unfinished(state: GenerationState) -> Array:
        return (state.length < end) & state.finite & ~state.done.all()

    def read(state: GenerationState) -> GenerationState:
        if plan.slides:
            state = _within_context(model, plan, params, state)
        state = state._replace(readings=state.readings + 1)
        if plan.lookup:
            return read_drafts(partial(_read, model, params), draw_next, unfinished, plan.lookup, context, state)
        logits, cache = _read(model, params, column(state.text, state.length - 1), state.cache)
        return draw_next(state._replace(cache=cache), logits)

    draw_next, context = partial(_draw_next, plan, sampling, stop, key), model.config.context_length
    return jax.lax.while_loop(unfinished, read, state)


def _within_context(model: GPT, plan: _Plan, params: Any, state: GenerationState) -> GenerationState:
    """The state, in which rows that have filled the context lost their older half and all rows were read again."""
    context = model.config.context_length
    column = state.length - 1  # of the token that is to be read next
    full = column - state.start >= context

    def read_again(state: GenerationState) -> GenerationState:
        start = jnp.where(full, column - context // 2, state.start)
        first = column - context  # at least 0, for a row is full
        window = jax.lax.dynamic_slice_in_dim(state.text, first, context, 1)
        if plan.begin_token is not None:
            oldest = jnp.arange(context)[None] == (start - first)[:, None]
            window = jnp.where(oldest, plan.begin_token, window)
        _, cache = _read_prompt(model, params, window, start - first, state.cache.capacity)
        return state._replace(start=start, cache=cache)

    return jax.lax.cond(full.any(), read_again, lambda state: state, state)
