"""What is timed: the model of a config, and what a peer requires of it."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax

from jaxllm.config import GPTConfig
from jaxllm.reference.optimizer import learning_rate
from jaxllm.utils.errors import InputError
from jaxllm.utils.ideas import Idea, with_names

from ..config import RunConfig
from ..config_file import load_config
from ..ideas import load_code, resolve
from ..ideas_check import check_ideas
from ..inputs import model_without_text
from ..optimizer import learning_rate_schedule
from ..tune.kinds import check_plain
from . import peers


@dataclass(frozen=True)
class Peer:
    """Another program that trains a GPT-2."""

    script: Path
    needs: tuple[str, ...]  # modules of its Python
    activation: Literal["gelu_tanh", "gelu"]  # the one it computes
    instead_of: tuple[str, ...]  # activations of a config that it may replace
    without_biases: bool  # whether it can have none
    from_path: bool  # whether the user names its folder


FOLDER = Path(peers.__path__[0])
PEERS = {
    "nanogpt": Peer(FOLDER / "nanogpt.py", ("torch", "numpy"), "gelu", ("gelu_tanh",), True, from_path=True),
    "hf": Peer(FOLDER / "hf.py", ("torch", "transformers", "numpy"), "gelu_tanh", (), False, from_path=False),
}


@dataclass(frozen=True)
class Workload:
    """A model and its training, on random tokens: no text is read."""

    model: GPTConfig
    config: RunConfig
    code: str | None = None  # path of the file that its functions are in

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch."""
        return self.config.train.batch_size * self.model.context_length

    def job(self) -> dict[str, Any]:
        """What a process needs to take the first step (`train.bench.peers.protocol`)."""
        return {
            "model": with_names(asdict(self.model)),
            "train": with_names(asdict(self.config.train)),
            "optimizer": with_names(asdict(self.config.optimizer)),
            "code": self.code,
            "rates": self.rates(0, 1),
        }

    def rates(self, first: int, n: int) -> list[float]:
        """Learning rates of n steps; after the config's last step the rate stays at its minimum."""
        c, steps = self.config, range(first, first + n)
        if isinstance(c.optimizer.schedule, Idea):
            schedule = learning_rate_schedule(c.optimizer, c.train.steps)
            return [float(schedule(step)) for step in steps]
        return [learning_rate(c.optimizer, c.train.steps, step) for step in steps]


def load_workload(path: str, overrides: list[str], code: str | None) -> tuple[RunConfig, str | None]:
    """A config with the functions of a file, each tried, and the file's absolute path."""
    config = resolve(load_config(path, overrides), load_code(code))
    if code is None:
        return config, None
    jax.config.update("jax_platforms", "cpu")  # here functions are only tried; the device is for the processes
    check_ideas(config, model_without_text(config))
    return config, str(Path(code).absolute())


def workload_for(config: RunConfig, against: str | None, code: str | None = None) -> Workload:
    """The config's model as both sides compute it. Raises InputError for a model that a peer or a bench cannot have."""
    check_plain(config, "a bench is of random weights and tokens (`jaxllm bench tune` times a tuning)")
    if config.train.window:
        raise InputError(
            f"train.window is {config.train.window}, but the rows of a bench are as long as the context; leave it out, "
            "and set model.context_length."
        )
    model = model_without_text(config)
    if model.dropout:
        raise InputError(
            f"model.dropout is {model.dropout}, but a bench is without: its two sides would drop differently; give "
            "--set model.dropout=0."
        )
    if against is None:
        return Workload(model, config, code)
    peer = PEERS[against]
    if config.optimizer.name != "adamw":
        raise InputError(
            f"optimizer.name is {config.optimizer.name}, but {against} trains with AdamW; give "
            "--set optimizer.name=adamw."
        )
    if config.train.loss is not None:
        raise InputError(f"train.loss is {config.train.loss}, but {against} has the cross-entropy only; leave it out.")
    for field, value, wanted in _requirements(model, peer):
        if value != wanted:
            only = f"only {_toml(wanted)}; give --set model.{field}={_toml(wanted)}"
            has = "none; leave it out" if wanted is None else only
            raise InputError(f"model.{field} is {_toml(value)}, but {against} has {has}.")
    return Workload(replace(model, activation=peer.activation), config, code)


def _requirements(model: GPTConfig, peer: Peer) -> list[tuple[str, Any, Any]]:
    """(field, its value, the value that the peer needs)."""
    context = model.context_length
    replaced = model.activation in peer.instead_of
    return [
        ("norm", model.norm, "layer_norm"),
        ("norm_epsilon", model.norm_epsilon, 1e-5),
        ("qk_norm", model.qk_norm, False),
        ("norm_place", model.norm_place, "before"),
        ("parallel_residual", model.parallel_residual, False),
        ("position", model.position, "learned"),
        ("scale_embeddings", model.scale_embeddings, False),
        ("ngrams", model.ngrams, 1),
        ("sliding_window", min(model.sliding_window or context, context), context),
        ("layer_pattern", model.layer_pattern, None),
        ("attention_scale", model.attention_scale, None),
        ("separator", model.separator, None),
        ("visible", model.visible, None),
        ("score", model.score, None),
        ("score_softcap", model.score_softcap, None),
        ("block", model.block, None),
        ("logits", model.logits, None),
        ("logits_softcap", model.logits_softcap, None),
        ("tie_embeddings", model.tie_embeddings, True),
        ("d_head", model.head_dim, model.d_model // model.n_heads),
        ("n_kv_heads", model.kv_heads, model.n_heads),
        ("d_ff", model.hidden_dim, 4 * model.d_model),
        ("mup_base_width", model.mup_base_width, None),
        ("qkv_bias", model.use_bias if model.qkv_bias is None else model.qkv_bias, model.use_bias),
        ("use_bias", model.use_bias, model.use_bias if peer.without_biases else True),
        ("n_experts", model.n_experts, 0),
        ("activation", model.activation, model.activation if replaced else peer.activation),
    ]


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
