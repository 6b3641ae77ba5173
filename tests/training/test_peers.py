"""Our GPT-2 against Hugging Face's on PyTorch: logits, loss, every gradient and ten AdamW steps.

Needs the extra `peers`. Both get the same random weights, biases and scales included.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import random_tokens
from torch_models import torch, transformers
from torch_steps import TorchSteps

from jaxllm import GPT, GPTConfig
from jaxllm.compare import random_parameters
from jaxllm.compare.trees import in_dtype
from jaxllm.loss import cross_entropy
from train.config import OptimizerConfig, TrainConfig
from train.optimizer import learning_rate_schedule, make_optimizer
from train.state import TrainState
from train.step import make_train_step

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

CONFIG = GPTConfig(vocab_size=97, context_length=16, d_model=32, n_layers=3, n_heads=4)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, min_learning_rate=1e-3, warmup_steps=3, clip_norm=0.5)
STEPS = 10
TOKENS = [random_tokens(CONFIG, 4, CONFIG.context_length + 1, seed=s) for s in range(STEPS)]
# dtype -> tolerance of logits, loss and gradients; of the losses of ten steps; of the parameters after them
BOUNDS = {"float64": (1e-10, 1e-10, 1e-10), "float32": (1e-5, 1e-5, 1e-4)}


def to_torch(params: Any) -> dict[str, np.ndarray]:
    """Our names to GPT2LMHeadModel's; its maps hold query, key and value side by side, kernels [in, out] as ours."""

    def linear(name: str, p: Any) -> dict[str, Any]:
        return {f"{name}.weight": p["kernel"], f"{name}.bias": p["bias"]}

    def norm(name: str, p: Any) -> dict[str, Any]:
        return {f"{name}.weight": p["scale"], f"{name}.bias": p["bias"]}

    table = params["token_embedding"]["table"]
    out = {"transformer.wte.weight": table, "transformer.wpe.weight": params["position_embedding"]["table"]}
    for i in range(CONFIG.n_layers):
        block, h = params[f"block_{i}"], f"transformer.h.{i}"
        attention = block["attention"]
        both = jax.tree.map(lambda *x: np.concatenate(x, -1), *(attention[n] for n in ("query", "key", "value")))
        out |= norm(f"{h}.ln_1", block["norm_1"]) | norm(f"{h}.ln_2", block["norm_2"])
        out |= linear(f"{h}.attn.c_attn", both) | linear(f"{h}.attn.c_proj", attention["output"])
        out |= linear(f"{h}.mlp.c_fc", block["mlp"]["up"]) | linear(f"{h}.mlp.c_proj", block["mlp"]["down"])
    out |= norm("transformer.ln_f", params["norm_final"])
    return {name: np.asarray(value) for name, value in out.items()}


def torch_model(params: Any, dtype: str) -> Any:
    config = transformers.GPT2Config(
        vocab_size=CONFIG.vocab_size, n_positions=CONFIG.context_length, n_embd=CONFIG.d_model,
        n_layer=CONFIG.n_layers, n_head=CONFIG.n_heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).to(getattr(torch, dtype))
    weights = {name: torch.tensor(value) for name, value in to_torch(params).items()}
    left = model.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight"}  # tied to wte
    return model.train()


def torch_loss(model: Any, tokens: np.ndarray) -> tuple[Any, Any]:
    batch = torch.tensor(tokens.astype(np.int64))
    logits = model(batch[:, :-1]).logits
    return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def assert_near(got: Any, want: Any, bound: float, name: str) -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, rtol=0, atol=bound * np.abs(want).max(), err_msg=name)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_logits_loss_and_gradients(dtype: str) -> None:
    bound = BOUNDS[dtype][0]
    with jax.enable_x64(dtype == "float64"):
        params = in_dtype(random_parameters(GPT(CONFIG)), dtype)
        inputs, targets = TOKENS[0][:, :-1], TOKENS[0][:, 1:]

        def loss(params: Any) -> tuple[jax.Array, jax.Array]:
            logits = GPT(CONFIG).apply({"params": params}, inputs)
            return cross_entropy(logits, targets), logits

        (value, logits), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        gradients = jax.device_get(gradients)
    model = torch_model(params, dtype)
    want_logits, want = torch_loss(model, TOKENS[0])
    want.backward()
    assert_near(logits, want_logits.detach(), bound, "logits")
    assert_near(value, want.detach(), bound, "loss")
    ours = to_torch(gradients)
    theirs = dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert_near(gradient, theirs[name].grad, bound, name)


def test_its_own_loss_is_ours() -> None:
    """Hugging Face shifts the labels itself, and takes the loss of any logits in float32."""
    with jax.enable_x64(True):
        params = in_dtype(random_parameters(GPT(CONFIG)), "float64")
        tokens = TOKENS[0][:, :-1]
        got = cross_entropy(GPT(CONFIG).apply({"params": params}, tokens)[:, :-1], tokens[:, 1:])
    batch = torch.tensor(tokens.astype(np.int64))
    with torch.no_grad():
        want = torch_model(params, "float64")(batch, labels=batch).loss
    assert float(got) == pytest.approx(float(want), rel=1e-6)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_ten_steps_of_adamw(dtype: str) -> None:
    """The optimizer is that of `TorchSteps`.

    In float32 the parameters whose gradient was within its tolerance of zero are left out: one in a hundred, and the
    biases of keys, whose gradients are zero.
    """
    gradient_bound, loss_bound, bound = BOUNDS[dtype]
    with jax.enable_x64(dtype == "float64"):
        params = in_dtype(random_parameters(GPT(CONFIG)), dtype)
        model = torch_model(params, dtype)
        optimizer = make_optimizer(OPTIMIZER, STEPS)
        schedule = learning_rate_schedule(OPTIMIZER, STEPS)
        step = make_train_step(GPT(CONFIG), optimizer, TrainConfig(steps=STEPS, batch_size=4), schedule)
        state = in_dtype(TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)), dtype)
        theirs = TorchSteps(dict(model.named_parameters()), OPTIMIZER, schedule, gradient_bound)
        for s, tokens in enumerate(TOKENS):
            state, metrics = step(state, tokens[:, :-1], tokens[:, 1:])
            _, want = torch_loss(model, tokens)
            theirs.step(want)
            assert float(metrics["train_loss"]) == pytest.approx(float(want.detach()), rel=loss_bound), s
            assert float(metrics["grad_norm"]) == pytest.approx(theirs.norms[-1], rel=loss_bound), s
        ours = to_torch(jax.device_get(state.params))
    assert max(theirs.norms) > OPTIMIZER.clip_norm  # so clipping takes effect
    for name, parameter in model.named_parameters():
        got, want = ours[name], parameter.detach().numpy()
        if dtype == "float32":
            least = 0.6 if name.endswith("c_attn.bias") else 0.98  # of query, key and value the key's third
            clear = theirs.clear[name]
            assert clear.mean() > least, name
            got, want = got[clear], want[clear]
        assert_near(got, want, bound, name)
