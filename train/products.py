"""What computes the matrix products of a run on a CPU: XLA, or an installed library where it is measurably faster.

`train.products = "auto"` is resolved when a run begins, and the run's config.toml keeps the answer, so that a resumed
run computes the same bits. The candidates are timed on the products of the run's own model. A candidate takes part only
if its results there are those of NumPy in float64. The answer is kept for each model and machine, beside the compiled
programs. PyTorch fixes its library when it is built, and TVM tunes each product for minutes; here a second decides.
"""

import hashlib
import time
from collections import Counter
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array

from jaxllm.config import GPTConfig
from jaxllm.fast.attention import chunking
from jaxllm.fast.loss import MOST_IDS, MOST_LOGITS
from jaxllm.fast.native.build import cached, register
from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError
from jaxllm.fast.products import XLA, product, using
from jaxllm.gpt import GPT, count_parameters
from jaxllm.utils.errors import InputError
from jaxllm.utils.private_folder import processor

from .config import TrainConfig
from .step import compiler_options

AUTO = "auto"
FEWEST_STEPS, WORTH = 50, 2e12  # of a run, and its floating-point operations; with fewer, measuring does not pay
GAIN = 0.95  # of XLA's time: a library that needs more is not taken
REPEATS = 3
TOLERANCE = {"float32": 1e-5, "bfloat16": 8e-3}  # of a result, by its dtype, relative to the largest element


LINEAR = ("td,df->tf", "tf,df->td", "td,tf->df")  # of x and w, and for the gradients of x and of w
HEAD = ("td,vd->tv", "tv,vd->td", "tv,td->vd")
ATTENTION = ("ntk,nsk->nts", "nts,nsk->ntk", "nts,ntk->nsk")


class Products(NamedTuple):
    """Three products of a training step: y of x and w, and those of the backward with the shape of x and of w."""

    axes: tuple[str, str, str]
    x: tuple[int, ...]
    w: tuple[int, ...]
    dtype: str  # of the results

    def operands(self, dtype: str) -> dict[str, Array]:
        """Normal random numbers for x, w and y, by their axes."""
        rng = np.random.default_rng(0)
        x, w, y = self.axes[0].replace("->", ",").split(",")
        sizes = dict(zip(x + w, self.x + self.w, strict=True))
        shapes = {part: [sizes[axis] for axis in part] for part in (x, w, y)}
        return {part: jnp.asarray(rng.standard_normal(shape, np.float32), dtype) for part, shape in shapes.items()}

    def compute(self, operands: dict[str, Array]) -> list[Array]:
        """The three products by what the context names."""
        pairs = [axes.partition("->")[0].split(",") for axes in self.axes]
        return [
            product(axes, operands[a], operands[b], self.dtype) for axes, (a, b) in zip(self.axes, pairs, strict=True)
        ]

    def expected(self, operands: dict[str, Array]) -> list[np.ndarray]:
        """The three products by NumPy in float64."""
        arrays = {part: np.asarray(x, np.float64) for part, x in operands.items()}
        results = []
        for axes in self.axes:
            a, b, out = axes.replace("->", ",").split(",")
            left = arrays[a] if a[-2] == out[-2] else arrays[a].swapaxes(-1, -2)
            right = arrays[b] if b[-1] == out[-1] else arrays[b].swapaxes(-1, -2)
            results.append(left @ right)
        return results


class Choice(msgspec.Struct):
    """The library, each candidate's time on the products of a step relative to XLA's, and why others are left out."""

    name: str
    times: dict[str, float] = {}
    left_out: dict[str, str] = {}

    def __str__(self) -> str:
        """What computes, and why, in a line."""
        times = [f"{name} takes {time:.2f} of XLA's time" for name, time in self.times.items()]
        why = "; ".join([*times, *(f"no {name}: {reason}" for name, reason in self.left_out.items())])
        return f"matrix products by {self.name}" + (f" ({why})" if why else "")


def choose(model: GPTConfig, train: TrainConfig) -> Choice:
    """What computes the products of a run.

    Raises InputError where `train.products` names a library that cannot be used here.
    """
    check_products(train.products)
    if train.products != AUTO:
        return Choice(train.products)
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return Choice(XLA)
    tokens = train.batch_size * model.context_length
    if train.steps < FEWEST_STEPS or 6 * count_parameters(model) * tokens * train.steps < WORTH:
        return Choice(XLA)
    left_out = {}
    for name, library in LIBRARIES.items():
        try:
            if train.dtype not in library.dtypes:
                raise NoLibraryError(f"it has no {train.dtype}")
            register(name)
        except NoLibraryError as error:
            left_out[name] = str(error)
    if len(left_out) == len(LIBRARIES):
        return Choice(XLA, left_out=left_out)
    products = products_of(model, train)
    key = repr((jax.__version__, *processor(), sorted(products.items()), train.dtype, left_out))
    file = cached(f"choice-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json")
    try:
        if file:
            return msgspec.json.decode(file.read_bytes(), type=Choice)
    except (OSError, msgspec.MsgspecError):  # not measured yet, or damaged
        pass
    choice = measure(products, train.dtype, left_out)
    if file:
        file.write_bytes(msgspec.json.encode(choice))
    return choice


def check_products(name: str) -> None:
    """Raises InputError where `train.products` names a library that cannot be used here."""
    try:
        if name not in (AUTO, XLA):
            register(name)
    except NoLibraryError as error:
        raise InputError(
            f"train.products is {name!r}, but {error}. To compute without it: --set train.products=xla."
        ) from None


def products_of(model: GPTConfig, train: TrainConfig) -> Counter[Products]:
    """How often a step computes which products: of the linear maps, the head, and attention."""
    found: Counter[Products] = Counter()
    n = train.grad_accumulation
    tokens = train.batch_size * model.context_length // n
    block = jax.eval_shape(GPT(replace(model, n_layers=1)).init, jax.random.key(0), np.zeros((1, 1), int))
    for path, leaf in flatten_dict(block["params"]["block_0"]).items():
        if path[-1] == "kernel":
            found[Products(LINEAR, (tokens, leaf.shape[0]), leaf.shape, train.dtype)] += n * model.n_layers
    rows, ids = min(tokens, MOST_LOGITS // model.vocab_size), min(model.vocab_size, MOST_IDS)
    parts = -(-tokens // rows) * -(-model.vocab_size // ids)
    found[Products(HEAD, (rows, model.d_model), (ids, model.d_model), "float32")] += n * parts
    cut, heads = chunking(model.context_length), train.batch_size // n * model.n_heads
    q, k = (heads, cut.size, model.head_dim), (heads, cut.groups * cut.rows, model.head_dim)
    found[Products(ATTENTION, q, k, "float32")] += 2 * n * model.n_layers * cut.groups * cut.chunks
    return found


def measure(products: Counter[Products], dtype: str, left_out: dict[str, str]) -> Choice:
    """Check and time XLA and each library that is not left out on the products; the fastest is chosen."""
    seconds, left_out = dict.fromkeys([XLA, *(name for name in LIBRARIES if name not in left_out)], 0.0), dict(left_out)
    for these, count in products.items():
        operands = these.operands(dtype)
        expected = these.expected(operands)
        for name in list(seconds):
            with using(name):
                compute = jax.jit(these.compute, compiler_options=compiler_options(dtype))
                errors = list(map(relative_error, compute(operands), expected))
                seconds[name] += count * min(_seconds(compute, operands) for _ in range(REPEATS))
            if name != XLA and not all(error <= TOLERANCE[these.dtype] for error in errors):
                left_out[name] = f"its products are wrong here, off by {np.max(errors):.1g}"
                del seconds[name]
    times = {name: seconds[name] / seconds[XLA] for name in seconds if name != XLA}
    best = min(times, key=lambda name: times[name], default=XLA)
    return Choice(best if times.get(best, 1) < GAIN else XLA, times, left_out)


def relative_error(result: Array, expected: np.ndarray) -> float:
    """The largest difference over the largest element."""
    return float(np.abs(np.asarray(result, np.float64) - expected).max() / np.abs(expected).max())


def _seconds(compute: Any, operands: dict[str, Array]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(compute(operands))
    return time.perf_counter() - start
