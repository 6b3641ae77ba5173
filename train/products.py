"""What computes the matrix products of a run on a CPU: XLA, or an installed library where it is measurably faster.

`train.products = "auto"` is resolved when a run begins, and the run's config.toml keeps the answer, so that a resumed
run computes the same bits. The candidates are timed on the products of the run's own model. A candidate takes part only
if its results there are those of NumPy in float64. The answer is kept for each model and machine, beside the compiled
programs.
"""

import hashlib
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import msgspec
import numpy as np
from jax import Array

from jaxllm.config import GPTConfig
from jaxllm.fast.attention import chunking
from jaxllm.fast.loss import MOST_IDS, MOST_LOGITS
from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError, find
from jaxllm.fast.platform import on_one_cpu
from jaxllm.fast.products import XLA, product, using
from jaxllm.gpt import count_parameters, parameter_shapes
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.private_folder import NotPrivateError, private_file, processor
from jaxllm.utils.processes import usable_cores

from .config import TrainConfig, row_length
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
    relative_times: dict[str, float] = {}
    left_out: dict[str, str] = {}

    def __str__(self) -> str:
        """What computes, and why, in a line."""
        why = [f"{name} takes {time:.2f} of XLA's time" for name, time in self.relative_times.items()]
        for reason in dict.fromkeys(self.left_out.values()):
            why.append(f"no {', '.join(name for name, r in self.left_out.items() if r == reason)}: {reason}")
        return f"matrix products by {self.name}" + (f" ({'; '.join(why)})" if why else "")


def refusal(name: str, dtype: str) -> str:
    """Why a library cannot compute in this dtype here; "" if it can."""
    if dtype not in LIBRARIES[name].dtypes:
        return f"it has no {dtype}"
    try:
        with using(name):
            ones = jnp.ones((2, 2), dtype)
            jax.block_until_ready(product("td,df->tf", ones, ones))
    except NoLibraryError as error:
        return str(error)
    except jax.errors.JaxRuntimeError:  # raised by product.c
        return f"it has no {dtype} for this processor"
    return ""


def check_products(train: TrainConfig) -> None:
    """Raises InputError where `train.products` names a library that cannot be used here, unless XLA computes anyway."""
    if train.products not in (AUTO, XLA) and on_one_cpu() and (reason := refusal(train.products, train.dtype)):
        raise InputError(
            f"train.products is {train.products!r}, but {reason}. To compute without it: --set train.products=xla."
        )


def choose(model: GPTConfig, train: TrainConfig) -> Choice:
    """What computes the products of a run: XLA on other devices than one CPU."""
    if not on_one_cpu():
        return Choice(XLA)
    if train.products != AUTO:
        return Choice(train.products)
    operations = 6 * count_parameters(model) * train.batch_size * row_length(model, train) * train.steps
    if train.steps < FEWEST_STEPS or operations < WORTH:
        return Choice(XLA, left_out=dict.fromkeys(LIBRARIES, "the run is too short to measure"))
    left_out = {name: reason for name in LIBRARIES if (reason := refusal(name, train.dtype))}
    if len(left_out) == len(LIBRARIES):
        return Choice(XLA, left_out=left_out)
    products = products_of(model, train)
    kept = _kept(repr((sorted(products.items()), train.dtype, left_out)), left_out)
    if kept and (choice := _read(kept, left_out)):
        return choice
    choice = measure(products, train.dtype, left_out)
    if kept:
        with suppress(OSError):
            replace_file(kept, msgspec.json.encode(choice))
    return choice


def _kept(what: str, left_out: dict[str, str]) -> Path | None:
    """The file of a choice, by all that it depends on; None where nothing is kept."""
    files = [find(name) for name in LIBRARIES if name not in left_out]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime) for path in files]
    key = repr((what, jaxlib.__version__, usable_cores(), *processor(), states))
    try:
        return private_file("native", f"choice-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json")
    except NotPrivateError:
        return None


def _read(path: Path, left_out: dict[str, str]) -> Choice | None:
    try:
        choice = msgspec.json.decode(path.read_bytes(), type=Choice)
    except (OSError, ValueError, msgspec.MsgspecError):  # not measured yet, or damaged
        return None
    return choice if choice.name in {XLA, *LIBRARIES} - set(left_out) else None


def products_of(model: GPTConfig, train: TrainConfig) -> Counter[Products]:
    """How often a step computes which products: of the linear maps, the head, and attention."""
    found: Counter[Products] = Counter()
    n = train.grad_accumulation
    tokens = train.batch_size * row_length(model, train) // n
    for name, shape in parameter_shapes(model).items():
        if name.startswith("block_") and name.endswith("kernel"):
            found[Products(LINEAR, (tokens, shape[0]), shape, train.dtype)] += n
    rows, ids = min(tokens, MOST_LOGITS // model.vocab_size), min(model.vocab_size, MOST_IDS)
    parts = -(-tokens // rows) * -(-model.vocab_size // ids)
    found[Products(HEAD, (rows, model.d_model), (ids, model.d_model), "float32")] += n * parts
    cut, heads = chunking(row_length(model, train)), train.batch_size // n * model.n_heads
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
