"""muP: what depends on the width of a model and of its base, and that nothing does where they are the same."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from models import TINY, random_gpt, random_like, random_tokens

from jaxllm import GPT, GPTConfig
from jaxllm.fast.init import init_params
from jaxllm.gpt import summed_loss
from jaxllm.logit_lens import logit_lens
from jaxllm.loss import token_losses
from train.config import OptimizerConfig, TrainConfig
from train.optimizer import learning_rate_schedule, make_optimizer
from train.state import first_state
from train.step import step_function

pytestmark = pytest.mark.usefixtures("quick_compilation")

BLOCKS = ("query", "key", "value", "output", "gate", "up", "down")
WIDE = GPTConfig(
    vocab_size=97, context_length=64, d_model=64, n_layers=1, n_heads=4, activation="swiglu", tie_embeddings=False,
    mup_base_width=16,
)  # fmt: skip


@pytest.mark.newest
def test_the_width_of_the_base_changes_nothing() -> None:
    """The programs of the first state and of a step are the same, so their numbers are, to the bit."""

    def programs(config: GPTConfig, rule: OptimizerConfig) -> str:
        gpt, optimizer = GPT(config), make_optimizer(rule, 9, config.width_ratio)
        state = jax.eval_shape(partial(first_state, gpt, optimizer), jax.random.key(0))
        step = step_function(gpt, optimizer, TrainConfig(steps=9), learning_rate_schedule(rule, 9))
        tokens = jax.ShapeDtypeStruct((2, 8), "int32")
        return str(jax.make_jaxpr(partial(first_state, gpt, optimizer))(jax.random.key(0))) + str(
            jax.make_jaxpr(step)(state, tokens, tokens)
        )

    adamw = OptimizerConfig(warmup_steps=0)
    same, other = (programs(replace(TINY, mup_base_width=width), adamw) for width in (TINY.d_model, 4))
    assert programs(TINY, adamw) == same != other


@pytest.mark.newest
def test_initial_weights_of_blocks_shrink_with_the_root_of_the_width() -> None:
    tokens = np.zeros((1, 1), np.int32)
    mup, standard = (
        flatten_dict(jax.jit(partial(init_params, GPT(config)))(jax.random.key(0), tokens))
        for config in (WIDE, replace(WIDE, mup_base_width=None))
    )
    for path, p in mup.items():
        scale = 0.5 if path[-2] in BLOCKS and path[-1] == "kernel" else 1.0
        np.testing.assert_allclose(p, scale * standard[path], rtol=1e-6, err_msg="/".join(path))


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_divided_by_the_width_ratio(tied: bool) -> None:
    """Those of the model, the lens and the loss that never holds them."""
    config = replace(TINY, tie_embeddings=tied)
    mup, (model, params), tokens = GPT(replace(config, mup_base_width=2)), random_gpt(config), random_tokens(config)
    logits = model.apply({"params": params}, tokens) / 4
    np.testing.assert_allclose(mup.apply({"params": params}, tokens), logits, rtol=1e-5, atol=1e-5)
    want = float(token_losses(logits, tokens).sum())
    assert float(summed_loss(mup, params, tokens, tokens)) == pytest.approx(want, rel=1e-5)
    x = random_like(np.zeros((3, 8), np.float32))
    lens = (logit_lens(c, params, x) for c in (config, mup.config))
    np.testing.assert_allclose(next(lens) / 4, next(lens), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"n_experts": 3, "activation": "swiglu", "use_bias": False}], ids=str)
def test_updates_of_blocks_shrink_with_the_width_and_their_decay_does_not(options: dict[str, Any]) -> None:
    """AdamW, Lion and schedule-free AdamW by the ratio, Muon by its root; all other updates are the same to the bit."""
    params = random_gpt(replace(TINY, n_layers=1, tie_embeddings=False, **options))[1]
    powers = {"adamw": 1.0, "lion": 1.0, "schedule_free_adamw": 1.0, "muon": 0.5}
    rules: dict[str, OptimizerConfig] = {
        name: OptimizerConfig(name, "constant", 0.5, 0.0, 0, weight_decay=0.1)  # type: ignore[arg-type]
        for name in powers
    }

    @jax.jit
    def updates(gradients: Any) -> Any:
        made = {(name, m): make_optimizer(rule, 9, m) for name, rule in rules.items() for m in (1, 4)}
        return {key: one.update(gradients, one.init(params), params)[0] for key, one in made.items()}

    found = {key: flatten_dict(tree, sep="/") for key, tree in updates(random_like(params, seed=1)).items()}
    for name, power in powers.items():
        for path, p in flatten_dict(params, sep="/").items():
            narrow, wide, decay = found[name, 1][path], found[name, 4][path], -0.5 * 0.1 * p
            if path.startswith("block_0") and p.ndim >= 2:
                np.testing.assert_allclose(wide - decay, (narrow - decay) / 4**power, atol=1e-5, err_msg=path)
            else:
                np.testing.assert_array_equal(wide, narrow, err_msg=path)
