"""One piece of a foreign model: what went in, what came out, and the parameters between, in our layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxllm.utils.errors import InputError

SCALED = "token_embedding/scaled"  # the name of token embeddings times sqrt(D), where a config scales them
KINDS = (
    "token_embedding", "position_embedding", "norm", "linear", "attention", "mlp", "block", "head", "loss",
    "optimizer", "gradient",
)  # fmt: skip


@dataclass(frozen=True)
class ForeignPiece:
    """The recorded input and output of one module of a foreign model, or of its loss or optimizer.

    All arrays are NumPy's; `params` is a nested dict as ours, with float64 arrays. What the fields hold by `kind`:

    - `token_embedding`: x tokens [B, T], params {table [V, D]}, got [B, T, D]; times sqrt(D) under the name `SCALED`;
    - `position_embedding`: x the embeddings [B, T, D] before positions are added, params {table [C, D]} or {}, got
      their sum; or x None, and got the vectors of the positions alone, [T, D] or [B, T, D];
    - `norm`: x [..., D], params {scale, bias}, got [..., D]. `extra["norm"]`, "layer_norm" or "rms_norm", takes the
      place of `config.norm`;
    - `linear`: x [..., D], params {kernel [D, F], bias [F]}, got [..., F];
    - `attention`: x [B, T, D], params {query, key, value, output and the norms of queries and keys}, got [B, T, D];
    - `mlp`: x [..., D], params {up, down and perhaps gate}, got [..., D];
    - `block`: x [B, T, D], params {norm_1, attention, norm_2, mlp and perhaps norms after both}, got [B, T, D];
    - `head`: x [B, T, D] the result of the final norm, params {kernel [D, V], bias} or {table [V, D]}, got the logits
      [B, T, V]. `extra` may have `token_table` [V, D] of an untied model, and `before_norm` [B, T, D], the input of
      the final norm, with `norm_params`, its parameters;
    - `loss`: x logits [B, T, V], params {}, got a number; `extra["targets"]` [B, T], and perhaps `tokens` [B, T];
    - `gradient`: x our gradients of the parameters by name, got theirs under the same names. `extra` may have
      `n_tokens`, and `parts` {name: {"embedding": array, "head": array}}, the terms of a tied table's gradient;
    - `optimizer`: x the gradients by name, params the parameters before by name, got those after one step, the first.
      `extra` has `rule` ("adamw", "adam" or "sgd"), `learning_rate`, and perhaps `betas`, `epsilon`, `weight_decay`,
      `momentum`, `clip_norm` (None: not clipped) and `decayed`, the names whose parameters decay (none given: all).

    `extra["ours"]` may have, for every kind, what ours computes from x, where that is known already.

    Raises InputError for another kind.
    """

    kind: str
    name: str  # ours, as in a report: "block_7/attention/key_norm"
    config: Any  # a GPTConfig; inside a block that of its layer, without patterns
    params: Mapping[str, Any]
    x: Any
    got: Any
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"the piece {self.name} is of the kind {self.kind!r}; choose one of {', '.join(KINDS)}.")


def arrays(tree: Any) -> list[np.ndarray]:
    """The results of a piece as float64 arrays: itself, or those of its names in order."""
    if isinstance(tree, Mapping):
        return [np.asarray(tree[name], np.float64) for name in sorted(tree)]
    return [np.asarray(tree, np.float64)]
