"""Where a user's functions meet the rest: half precision, the validation loss, the cache, each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxllm import GPT, GPTConfig, InputError
from jaxllm.fast.generate import why_not_cached
from jaxllm.gpt import Block, apply_with_intermediates, summed_loss
from jaxllm.loss import token_losses
from jaxllm.utils.ideas import Idea
from train.commands.attention import attention_weights
from train.commands.train_report import describe_loss
from train.config import RunConfig, TrainConfig
from train.evaluate import evaluator, known_targets
from train.loop import how_to_resume
from train.memory_estimate import activation_bytes
from train.runs.folder import RunFolder

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]
TOKENS = jnp.arange(8)[None]


def small(**fields: object) -> GPTConfig:
    return GPTConfig(vocab_size=9, context_length=8, n_layers=1, n_heads=2, d_model=8, **fields)  # type: ignore[arg-type]


def params_of(config: GPTConfig) -> dict:
    return GPT(config).init(jax.random.key(0), TOKENS)["params"]


def test_a_function_that_computes_in_float32_does_not_change_the_dtype() -> None:
    def tanh(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
        return jnp.tanh(0.5 * x) * scale + bias

    config = small(norm=tanh, activation=lambda x: x.astype(jnp.float32) ** 2)
    _, seen = apply_with_intermediates(GPT(config, "bfloat16"), params_of(config), TOKENS)
    inner = {name for name in seen if name.startswith(("block_", "norm_final")) and not name.endswith("weights")}
    assert {str(seen[name].dtype) for name in inner} == {"bfloat16"}


def test_targets_that_the_model_sees_are_left_out_of_the_validation_loss() -> None:
    def prefix(t: jax.Array, s: jax.Array, document_t: None, document_s: None) -> jax.Array:
        return (s <= t) | (s < 4)

    config, ids = small(visible=prefix), np.arange(33) % 9
    known = known_targets(config)
    assert known is not None and known.tolist() == [True] * 3 + [False] * 5
    of_two = known_targets(config, 2)
    assert of_two is not None and of_two.tolist() == [True, False] and known_targets(config, 1) is None
    assert known_targets(small(visible=lambda t, s, a, b: (s <= t) & (s > t - 2))) is None
    model, params = GPT(config), params_of(config)
    loss = evaluator(model, RunConfig(train=TrainConfig(batch_size=2)))(params, ids)
    logits = model.apply({"params": params}, ids[:-1].reshape(4, 8))
    assert loss == pytest.approx(float(token_losses(logits, ids[1:].reshape(4, 8))[:, 3:].mean()), rel=1e-5)
    short = evaluator(model, RunConfig(train=TrainConfig(batch_size=2)))(params, ids[:3])
    logits = model.apply({"params": params}, ids[None, :2])
    assert short == pytest.approx(float(token_losses(logits, ids[None, 1:3])[0, 1]), rel=1e-5)


def test_a_rule_by_which_everything_is_seen_leaves_nothing_to_evaluate() -> None:
    config = small(visible=lambda t, s, a, b: s <= t + 1)
    evaluate = evaluator(GPT(config), RunConfig(train=TrainConfig(batch_size=2)))
    with pytest.raises(InputError, match="every position sees its target"):
        evaluate(params_of(config), np.arange(33) % 9)


def test_a_loss_of_hidden_states_does_not_leave_out_a_change_of_the_logits() -> None:
    def of_hidden(x: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
        return token_losses(x @ table.T, targets)

    config = small(logits=jnp.tanh)
    with pytest.raises(InputError, match="reads hidden states, so that a change of the logits"):
        summed_loss(GPT(config), params_of(config), TOKENS, TOKENS, loss=of_hidden)


class Parallel(Block):
    """Attention and MLP side by side."""

    @nn.compact
    def __call__(self, x: jax.Array, documents: jax.Array | None = None) -> jax.Array:
        norm_1, _, _, mlp = self.parts(nn.Module)  # type: ignore[type-var]
        return x + mlp(norm_1(x))

    @nn.nowrap
    def parts(self, attention_class: type) -> tuple:
        from jaxllm.attention import MultiHeadAttention

        return super().parts(MultiHeadAttention)


def test_a_block_of_ones_own_is_not_read_through_the_cache() -> None:
    assert not why_not_cached(GPT(small(), block=nn.jit(nn.remat(Block))))
    for model in (GPT(small(), block=Parallel), GPT(small(block=Parallel))):
        assert "reading through the cache does not call" in why_not_cached(model)


def test_a_block_without_attention_has_no_picture() -> None:
    config = small(block=Parallel)
    with pytest.raises(InputError, match="has no attention whose weights are known"):
        attention_weights(GPT(config), params_of(config), [1, 2, 3])


def test_how_to_resume_names_the_code(tmp_path: object) -> None:
    config = RunConfig(train=TrainConfig(loss=Idea(token_losses, "ideas.py:mine", "00")))
    assert how_to_resume(RunFolder(str(tmp_path)), config).endswith("--resume --code ideas.py")
    assert how_to_resume(RunFolder(str(tmp_path)), RunConfig()).endswith("--resume")


def test_a_loss_that_holds_all_logits_is_announced_and_counted() -> None:
    def of_hidden(x: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
        return token_losses(x @ table.T, targets)

    plain = TrainConfig(batch_size=64)
    own, hidden = (TrainConfig(batch_size=64, loss=Idea(loss, "a.py:f", "0")) for loss in (token_losses, of_hidden))
    assert describe_loss(plain) == []
    assert describe_loss(own) == [
        "the loss is a.py:f, which reads all logits of a batch at once, and holds them; val_loss is the cross-entropy"
    ]
    assert "reads the hidden states;" in describe_loss(hidden)[0]
    large = GPTConfig(n_layers=1, d_model=64, n_heads=1)
    assert activation_bytes(large, own) - activation_bytes(large, plain) == 10 * (64 * 1024 * 50257 - 2**26)
