"""Our side of `jaxllm bench train`, in a separate process: the step of `jaxllm train`."""

import platform
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import InputError, __version__

from ..optimizer import learning_rate_schedule, make_optimizer
from ..products import check_products, choose
from ..runtime.allocator import compute_in_this_thread
from ..state import init_and_compile
from ..step import compiler_options, make_model, make_train_step
from ..tune.partition import partition_of
from .job import config_of
from .peers.protocol import Job, RefusedError, peak_memory, serve
from .weights import share_weights


class OurTraining:
    """A `train.bench.peers.protocol.TrainSide`."""

    def __init__(self, job: Job) -> None:
        try:
            shape, config = config_of(job)
            check_products(config.train)
        except InputError as error:
            raise RefusedError(str(error)) from None
        products: Any = choose(shape, config.train).name
        self._config = replace(config.train, products=products)
        steps = self._config.steps
        model = make_model(shape, self._config)
        optimizer = make_optimizer(config.optimizer, steps, shape.width_ratio)
        schedule = learning_rate_schedule(config.optimizer, steps)
        start = time.perf_counter()
        parts = partition_of(config)
        train_step = make_train_step(model, optimizer, self._config, schedule, parts=parts)
        self._state, self._step = init_and_compile(model, optimizer, train_step, self._config, parts=parts)
        self._compile_s = time.perf_counter() - start
        params, self.weights_s = share_weights(self._state.params, job)
        self._state = self._state._replace(params=params)
        self._n_parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))

    def step(self, tokens: np.ndarray, rate: float) -> float:
        """As `TrainSide` says; the rate is that of our own schedule."""
        self._state, metrics = self._step(self._state, tokens[:, :-1], tokens[:, 1:])
        return float(jax.block_until_ready((self._state, metrics))[1]["train_loss"])

    def about(self, first_step_s: float) -> dict[str, Any]:
        """As `TrainSide` says."""
        device = jax.devices()[0]
        versions = {"jaxllm": __version__, "python": platform.python_version(), "jax": jax.__version__}
        return {
            "compile_s": self._compile_s,
            "device": device.device_kind,
            "platform": device.platform,
            "n_parameters": self._n_parameters,
            "versions": versions | {"numpy": np.__version__, "products": self._config.products},
        }

    def close(self) -> dict[str, Any]:
        """As `TrainSide` says, and the machine's speed in matrix products."""
        on_cpu = jax.default_backend() == "cpu"
        peak_bytes = peak_memory() if on_cpu else jax.devices()[0].memory_stats()["peak_bytes_in_use"]
        del self._state
        return {"peak_bytes": peak_bytes, "product_flops_per_s": product_speed(self._config.dtype)}


def product_speed(dtype: str) -> float:
    """Floating-point operations a second in a large matrix product: the best of ten tries, with and without options."""
    on_cpu = jax.default_backend() == "cpu"
    n, at_once = (2048, 1) if on_cpu else (8192, 20)  # several at once, so that the time to dispatch one does not count
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.float32).astype(dtype) for i in range(2))
    times = []
    for options in ({}, compiler_options(dtype)):
        product = jax.jit(jnp.dot, compiler_options=options)
        jax.block_until_ready(product(a, b))
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready([product(a, b) for _ in range(at_once)])
            times.append((time.perf_counter() - start) / at_once)
    return 2 * n**3 / min(times)


if __name__ == "__main__":
    compute_in_this_thread()
    serve(OurTraining)
