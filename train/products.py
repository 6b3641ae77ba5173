"""What computes the matrix products of a run on a CPU: XLA, or an installed library where it is measurably faster.

`train.products = "auto"` is resolved when a run begins, and the run's config.toml keeps the answer, so that a resumed
run computes the same bits. The candidates are timed on the products of the run's own model. A candidate takes part only
if its results there are those of NumPy in float64. The answer is kept for each model and machine, beside the compiled
programs. PyTorch fixes its library when it is built, and TVM tunes each product for minutes; here a second decides.
"""

import hashlib
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax.traverse_util import flatten_dict

from jaxllm.config import GPTConfig
from jaxllm.fast.attention import chunking
from jaxllm.fast.loss import MOST_IDS, MOST_LOGITS
from jaxllm.fast.native.build import cached, register
from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError
from jaxllm.fast.products import XLA, product, using
from jaxllm.utils.errors import InputError

from .config import TrainConfig
from .step import compiler_options

AUTO = "auto"
WORTH = 2e12  # floating-point operations of a whole run; with fewer, measuring takes longer than it saves
GAIN = 0.95  # of XLA's time: a library that needs more is not taken
REPEATS = 3
TOLERANCE = {"float32": 1e-5, "bfloat16": 8e-3}  # of a result, by its dtype, relative to the largest element


class Product(NamedTuple):
    """A product of a training step, as `jaxllm.fast.products.product` takes it, and how often a step has it."""

    axes: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    dtype: str  # of the result
    count: int


class Choice(msgspec.Struct):
    """The library, each candidate's time on the products of a step relative to XLA's, and why others are left out."""

    name: str
    times: dict[str, float]
    left_out: dict[str, str]

    def line(self) -> str:
        """What computes, and why, in a line."""
        if not self.times and not self.left_out:
            return "matrix products are XLA's: the run is too short to measure others"
        times = [f"{name} {time:.2f} of XLA's time" for name, time in self.times.items()]
        why = "; ".join([*times, *(f"{name}: {reason}" for name, reason in self.left_out.items())])
        return f"matrix products are {'XLA' if self.name == XLA else self.name}'s ({why})"


def choose(model: GPTConfig, train: TrainConfig, params: Any) -> Choice:
    """What computes the products of a run whose parameters have the shapes `params`.

    Raises InputError where `train.products` names a library that cannot be used here.
    """
    if train.products != AUTO:
        return _named(train.products)
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return Choice(XLA, {}, {"others": "one CPU only"})
    tokens = train.batch_size * model.context_length
    if 6 * sum(leaf.size for leaf in jax.tree.leaves(params)) * tokens * train.steps < WORTH:
        return Choice(XLA, {}, {})
    left_out = {}
    for name, library in LIBRARIES.items():
        try:
            if train.dtype not in library.dtypes:
                raise NoLibraryError(f"it has no {train.dtype}")
            register(name)
        except NoLibraryError as error:
            left_out[name] = str(error)
    if len(left_out) == len(LIBRARIES):
        return Choice(XLA, {}, left_out)
    products = sorted(set(products_of(model, train, params)))
    file = cached(f"choice-{hashlib.sha256(repr((products, train.dtype, left_out)).encode()).hexdigest()[:16]}.json")
    try:
        if file:
            return msgspec.json.decode(file.read_bytes(), type=Choice)
    except (OSError, msgspec.MsgspecError):  # not measured yet, or damaged
        pass
    choice = measure(products, train.dtype, left_out)
    if file:
        file.write_bytes(msgspec.json.encode(choice))
    return choice


def _named(name: str) -> Choice:
    try:
        if name != XLA:
            register(name)
    except NoLibraryError as error:
        raise InputError(
            f"train.products is {name!r}, but {error}. To compute without it: --set train.products=xla."
        ) from None
    return Choice(name, {}, {"train.products": f"{name} in the config"})


def products_of(model: GPTConfig, train: TrainConfig, params: Any) -> Iterator[Product]:
    """The products of a step, forward and backward: of the linear maps, attention, and the head."""
    n = train.grad_accumulation
    tokens = train.batch_size * model.context_length // n
    for path, leaf in flatten_dict(params).items():
        if path[-1] == "kernel":
            d, f = leaf.shape
            yield Product("...d,df->...f", (tokens, d), (d, f), train.dtype, n)
            yield Product("...f,df->...d", (tokens, f), (d, f), train.dtype, n)
            yield Product("...d,...f->df", (tokens, d), (tokens, f), train.dtype, n)
    rows, ids = min(tokens, MOST_LOGITS // model.vocab_size), min(model.vocab_size, MOST_IDS)
    parts = n * -(-tokens // rows) * -(-model.vocab_size // ids)
    yield Product("td,vd->tv", (rows, model.d_model), (ids, model.d_model), "float32", parts)
    yield Product("tv,td->vd", (rows, ids), (rows, model.d_model), "float32", parts)
    yield Product("tv,vd->td", (rows, ids), (ids, model.d_model), "float32", parts)
    cut, k = chunking(model.context_length), model.head_dim
    heads = train.batch_size // n * model.n_heads
    q, keys, weights = (heads, cut.size, k), (heads, cut.groups * cut.rows, k), (heads, cut.size, cut.groups * cut.rows)
    chunks = n * model.n_layers * cut.groups * cut.chunks
    yield Product("...tk,...sk->...ts", q, keys, "float32", 2 * chunks)
    yield Product("...ts,...sk->...tk", weights, keys, "float32", 2 * chunks)
    yield Product("...ts,...tk->...sk", weights, q, "float32", 2 * chunks)


def measure(products: list[Product], dtype: str, left_out: dict[str, str]) -> Choice:
    """Check and time XLA and each library that is not left out on the products; the fastest is chosen."""
    names = [XLA, *(name for name in LIBRARIES if name not in left_out)]
    seconds, left_out = dict.fromkeys(names, 0.0), dict(left_out)
    for p in products:
        rng = np.random.default_rng(0)
        a, b = (jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for shape in (p.a, p.b))
        expected = np.einsum(p.axes, np.asarray(a, np.float64), np.asarray(b, np.float64), optimize=True)
        for name in list(seconds):
            with using(name):
                once = jax.jit(partial(product, p.axes, dtype=p.dtype), compiler_options=compiler_options(dtype))
                error = np.abs(np.asarray(once(a, b), np.float64) - expected).max() / np.abs(expected).max()
                if name != XLA and not error <= TOLERANCE[p.dtype]:
                    left_out[name] = f"wrong here, off by {error:.1g} in {p.axes}"
                    del seconds[name]
                    continue
                seconds[name] += p.count * min(_seconds(once, a, b) for _ in range(REPEATS))
    times = {name: seconds[name] / seconds[XLA] for name in seconds if name != XLA}
    best = min(times, key=lambda name: times[name], default=XLA)
    return Choice(best if times.get(best, 1) < GAIN else XLA, times, left_out)


def _seconds(function: Any, a: jax.Array, b: jax.Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(a, b))
    return time.perf_counter() - start
