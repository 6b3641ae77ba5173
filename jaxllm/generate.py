"""Sampling text from a model: the prompt is read at once, then one token after the other through the key/value cache.

The whole loop is one jitted program of static shapes, as in gemma; lengths are rounded up to a few sizes, so that
another prompt or another number of tokens seldom compiles anew. transformers' loop is Python's and compiles or
dispatches each step; nanoGPT's keeps no cache.

A row's tokens do not depend on the rows beside it: prompts of unequal lengths are aligned at their ends, and each row
draws with a key of its own. Where a row has filled the model's context, its older half is dropped and the other half
read anew, so the model always sees between the last half and the last whole context. Where texts begin with a certain
token, it stays the first that the model sees.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxllm.cache import Cache
from jaxllm.fast.quantised_weights import cast_kernels
from jaxllm.gpt import GPT, interceptors
from jaxllm.sampling import min_p, repetition_penalty, scale_temperature, top_k, top_p
from jaxllm.utils.errors import NonFiniteError

# Lengths are rounded up to a power of two from the first on, beyond the second to multiples of it.
SHORTEST, STEP = 16, 256


class Sampling(NamedTuple):
    """How the next token is drawn from logits; None leaves a rule out, temperature 0 takes the most likely token.

    In this order: repetition penalty, temperature, top-k, top-p, min-p, as in transformers. All but k, what is None and
    whether the temperature is 0 may change without compiling anew.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


PLAIN = Sampling()


def draw(logits: Array, keys: Array, sampling: Sampling, seen: Array | None = None) -> Array:
    """One token per row: logits [B, V], keys [B] -> [B] int32. `seen` [B, V] marks tokens of the text.

    A temperature that is a Python number is a constant of the program.
    """
    temperature, k, p, least, penalty = sampling
    if penalty is not None and seen is not None:
        logits = repetition_penalty(logits, seen, penalty)
    if isinstance(temperature, int | float) and temperature == 0:
        return _largest(logits)
    least_temperature = jnp.finfo(logits.dtype).tiny  # what is less is 0 to the processor
    logits = logits - logits.max(-1, keepdims=True)  # no overflow where the temperature is tiny
    logits = scale_temperature(logits, jnp.maximum(temperature, least_temperature))
    logits = logits if k is None else top_k(logits, k)
    logits = logits if p is None else top_p(logits, p)
    logits = logits if least is None else min_p(logits, least)
    noise = jax.vmap(lambda key, row: jax.random.gumbel(key, row.shape, row.dtype))(keys, logits)
    return _largest(logits + noise)  # the Gumbel-max trick: a draw from softmax(logits)


def _largest(x: Array) -> Array:
    """Where each row's largest number stands: [B, V] -> [B] int32.

    Not by argmax: of a loop that holds neither a sort nor a call, XLA 0.12 on a CPU makes one function for one thread,
    however much it reads (its SmallWhileLoopHoistingPass), which halves the speed of `generate`. This is a call.
    """
    return jax.lax.top_k(x, 1)[1][:, 0].astype(jnp.int32)


class State(NamedTuple):
    """Texts as they grow: an explicit pytree of fixed shapes."""

    text: Array  # [B, N] int32: padding, prompt, tokens drawn, room
    length: Array  # int32, columns of the text in use; the last one is not in the cache yet
    start: Array  # [B] int32, column of the first token that the model sees of each row
    done: Array  # [B] bool: a stop token was drawn, which is repeated from there on
    drawn: Array  # int32, tokens drawn
    seen: Array | None  # [B, V] bool, tokens of the text, where a penalty needs them
    cache: Cache
    finite: Array  # bool: the largest logit of each row that was not done was finite, at every token


class _Plan(NamedTuple):
    """The shapes of a generation, and what else is a constant of its program."""

    width: int  # columns of the text
    begin_token: int | None  # what the model sees first, also where it sees only the end of a text
    slides: bool  # whether a row may outgrow the context
    vocab_size: int | None
    greedy: bool
    k: int | None
    interceptors: tuple[Any, ...]  # active when it is traced: other ones make another program


class Generation(NamedTuple):
    """A generation begun: `advance` draws more tokens, `tokens` returns what was drawn."""

    model: GPT
    params: Any
    plan: _Plan
    sampling: Sampling
    stop: Array
    key: Array
    state: State

    def advance(self, n: int) -> "Generation":
        """With up to n more tokens in each row; the old state is given up."""
        plan = self.plan._replace(interceptors=interceptors())
        fixed = (self.model, plan, self.params, self.sampling, self.stop, self.key)
        return self._replace(state=_advance(*fixed, self.state, jnp.asarray(n, jnp.int32)))

    def tokens(self) -> np.ndarray:
        """[B, tokens drawn] int32; behind a stop token there is nothing but that token again.

        Raises NonFiniteError where a token was drawn from logits that hold NaN or infinity; -inf is a token left out.
        """
        if not bool(self.state.finite):
            raise NonFiniteError("the model computes non-finite logits; look for NaN in its parameters.")
        end = int(self.state.length)
        return np.asarray(self.state.text)[:, end - int(self.state.drawn) : end]


def generate(
    model: GPT, params: Any, prompts: Any, key: Array, max_new_tokens: int, sampling: Sampling = PLAIN,
    vocab_size: int | None = None, stop_tokens: Sequence[int] = (), begin_token: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Continue prompts, an array [B, P] or a list of lists of ids, by at most `max_new_tokens`: -> [B, tokens] int32.

    Ends early where every row has drawn a stop token, which is repeated to the end of its row. Ids from `vocab_size`
    on, with which a model's vocabulary may be padded, are never drawn. The same key gives the same tokens, for a row
    the same whatever other rows there are. Of a prompt longer than the context the end is read. A `begin_token`, with
    which the prompts begin, stays the first token that the model sees, in place of the oldest one in sight. Raises
    ValueError for an empty prompt and for no token at all to be drawn, and NonFiniteError as `Generation.tokens` does.
    """
    begun = begin(model, params, prompts, key, max_new_tokens, sampling, vocab_size, stop_tokens, begin_token)
    return begun.advance(max_new_tokens - 1).tokens()


def stream(generation: Generation, max_new_tokens: int, at_a_time: int = 1) -> Iterator[np.ndarray]:
    """The tokens of a generation [B, some] as they come, until all rows are done or have that many."""
    given = 0
    while True:
        new = generation.tokens()[:, given:]
        given += new.shape[1]
        yield new
        if given >= max_new_tokens or bool(generation.state.done.all()):
            return
        generation = generation.advance(min(at_a_time, max_new_tokens - given))


def begin(
    model: GPT, params: Any, prompts: Any, key: Array, max_new_tokens: int, sampling: Sampling = PLAIN,
    vocab_size: int | None = None, stop_tokens: Sequence[int] = (), begin_token: int | None = None,
) -> Generation:  # fmt: skip
    """Reads the prompts and draws the first token of each row; see `generate`."""
    context = model.config.context_length
    rows = [_end_of(np.asarray(row, np.int32), context, begin_token) for row in prompts]
    longest = max(len(row) for row in rows)
    if min(len(row) for row in rows) < 1:
        raise ValueError("a prompt holds no token; give each at least one.")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, but it must be at least 1.")
    prompt = min(_rounded(longest), context)
    text = np.zeros((len(rows), prompt), np.int32)
    for i, row in enumerate(rows):
        text[i, prompt - len(row) :] = row
    start = jnp.asarray([prompt - len(row) for row in rows], jnp.int32)
    slides = longest + max_new_tokens - 1 > context
    greedy = sampling.temperature == 0
    width = _rounded(prompt + max_new_tokens)
    plan = _Plan(width, begin_token, slides, vocab_size, greedy, sampling.top_k, interceptors())
    sampling = sampling._replace(top_k=None, temperature=1.0 if greedy else sampling.temperature)
    stop = jnp.asarray(stop_tokens, jnp.int32)
    state = _begin(model, plan, params, sampling, stop, key, jnp.asarray(text), start)
    return Generation(model, params, plan, sampling, stop, key, state)


def _end_of(row: np.ndarray, context: int, begin_token: int | None) -> np.ndarray:
    """What the context holds of a prompt [N]: its end, behind the begin token."""
    if len(row) <= context:
        return row
    kept = row[-context:].copy()
    kept[0] = kept[0] if begin_token is None else begin_token
    return kept


def _rounded(length: int) -> int:
    if length > STEP:
        return -(-length // STEP) * STEP
    return max(SHORTEST, 1 << (length - 1).bit_length())


@partial(jax.jit, static_argnames=("model", "plan"))
def _begin(
    model: GPT, plan: _Plan, params: Any, sampling: Sampling, stop: Array, key: Array, text: Array, start: Array
) -> State:  # fmt: skip
    n_rows, prompt = text.shape
    context = model.config.context_length
    # What is read anew fills a context's slots, the row half of them, and then the row grows to a context again.
    capacity = context + max(prompt, context - context // 2) if plan.slides else plan.width
    logits, cache = _read_prompt(model, params, text, start, capacity)
    seen = None
    if sampling.repetition_penalty is not None:
        within = jnp.arange(prompt)[None] >= start[:, None]
        ids = jnp.where(within, text, model.config.vocab_size)  # padding is nowhere
        seen = jnp.zeros((n_rows, model.config.vocab_size), bool)
        seen = seen.at[jnp.arange(n_rows)[:, None], ids].set(True, mode="drop")
    text = jnp.pad(text, ((0, 0), (0, plan.width - prompt)))
    zero = jnp.zeros((), jnp.int32)
    state = State(text, zero + prompt, start, jnp.zeros(n_rows, bool), zero, seen, cache, jnp.asarray(True))
    return _draw_next(plan, sampling, stop, key, state, logits)


def _read_prompt(model: GPT, params: Any, tokens: Array, start: Array, capacity: int) -> tuple[Array, Cache]:
    cache = Cache.empty(model.config, start, capacity, _dtype(model, params))
    return _read(model, params, tokens, cache)


def _read(model: GPT, params: Any, tokens: Array, cache: Cache) -> tuple[Array, Cache]:
    out: Any = model.apply({"params": cast_kernels(params, _dtype(model, params))}, tokens, cache=cache)
    return out


def _dtype(model: GPT, params: Any) -> Any:
    """The dtype of the computation."""
    return model.dtype or params["token_embedding"]["table"].dtype


def _draw_next(plan: _Plan, sampling: Sampling, stop: Array, key: Array, state: State, logits: Array) -> State:
    """The state with one more token in each row, drawn from logits [B, V]."""
    n_rows = state.text.shape[0]
    rows = jnp.arange(n_rows)
    keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, state.drawn), row))(rows)
    sampling = sampling._replace(top_k=plan.k, **({"temperature": 0.0} if plan.greedy else {}))
    seen = None if state.seen is None else state.seen[:, : plan.vocab_size]
    logits = logits[:, : plan.vocab_size]
    finite = state.finite & (jnp.isfinite(logits.max(-1)) | state.done).all()
    token = draw(logits, keys, sampling, seen)
    last = jax.lax.dynamic_index_in_dim(state.text, state.length - 1, 1, keepdims=False)
    token = jnp.where(state.done, last, token)
    text = jax.lax.dynamic_update_slice_in_dim(state.text, token[:, None], state.length, 1)
    done = state.done | (token[:, None] == stop[None]).any(1)
    seen = None if state.seen is None else state.seen.at[rows, token].set(True)
    return State(text, state.length + 1, state.start, done, state.drawn + 1, seen, state.cache, finite)


@partial(jax.jit, static_argnames=("model", "plan"), donate_argnames="state")
def _advance(
    model: GPT, plan: _Plan, params: Any, sampling: Sampling, stop: Array, key: Array, state: State, n: Array
) -> State:  # fmt: skip
    end = jnp.minimum(state.length + n, plan.width)

    def unfinished(state: State) -> Array:
        return (state.length < end) & state.finite & ~state.done.all()

    def one_token(state: State) -> State:
        if plan.slides:
            state = _within_context(model, plan, params, state)
        token = jax.lax.dynamic_slice_in_dim(state.text, state.length - 1, 1, 1)
        logits, cache = _read(model, params, token, state.cache)
        return _draw_next(plan, sampling, stop, key, state._replace(cache=cache), logits)

    return jax.lax.while_loop(unfinished, one_token, state)


def _within_context(model: GPT, plan: _Plan, params: Any, state: State) -> State:
    """Where a row has filled the context, the state with that row's older half dropped and all rows read anew."""
    context = model.config.context_length
    column = state.length - 1  # of the token that is to be read next
    full = column - state.start >= context

    def read_anew(state: State) -> State:
        start = jnp.where(full, column - context // 2, state.start)
        first = column - context  # at least 0, for a row is full
        window = jax.lax.dynamic_slice_in_dim(state.text, first, context, 1)
        if plan.begin_token is not None:
            oldest = jnp.arange(context)[None] == (start - first)[:, None]
            window = jnp.where(oldest, plan.begin_token, window)
        capacity = state.cache.layers[0].capacity
        _, cache = _read_prompt(model, params, window, start - first, capacity)
        return state._replace(start=start, cache=cache)

    return jax.lax.cond(full.any(), read_anew, lambda state: state, state)
