"""The stations of the page of `jaxllm learn show`, in the order of the course: what each shows, and says."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxllm import GPTConfig

# The rows and columns of each array, by letters of `Axes`; 1 is a single one. Names are those within a block.
SHAPES = {
    "pairs": "ti", "token_embedding/table": "vd", "token_embedding": "td", "position_embedding/table": "td",
    "position_embedding": "td", "simple/scores": "tt", "simple/weights": "tt", "simple": "td",
    "norm_1": "td", "norm_1/scale": "1d", "norm_1/bias": "1d", "norm_1/statistics": "ts", "norm_1/means": "tm",
    "attention/query": "ta", "attention/query/kernel": "da", "attention/query/bias": "1a",
    "attention/key": "ta", "attention/key/kernel": "da", "attention/key/bias": "1a",
    "attention/value": "ta", "attention/value/kernel": "da", "attention/value/bias": "1a",
    "attention/scores": "tt", "attention/scaled": "tt", "attention/masked": "tt", "attention/weights": "tt",
    "attention/merged": "ta", "attention": "td", "attention/output/kernel": "ad", "attention/output/bias": "1d",
    "residual_1": "td",
    "norm_2": "td", "norm_2/scale": "1d", "norm_2/bias": "1d", "norm_2/statistics": "ts", "norm_2/means": "tm",
    "mlp/up": "tf", "mlp/up/kernel": "df", "mlp/up/bias": "1f", "mlp/gelu": "tf",
    "mlp": "td", "mlp/down/kernel": "fd", "mlp/down/bias": "1d", "block": "td",
    "norm_final": "td", "norm_final/scale": "1d", "norm_final/bias": "1d", "norm_final/statistics": "ts",
    "norm_final/means": "tm", "head/kernel": "dv",
    "logits": "tv", "probabilities": "tv", "losses": "t1", "loss": "11", "sampling/scaled": "1v", "sampling": "1v",
    "step/norms": "n1", "step/norm": "11", "step/clip": "11",
}  # fmt: skip
BY_HEAD = ("scores", "scaled", "masked", "weights")  # of attention: a grid for each head


@dataclass(frozen=True)
class Station:
    """A step of the model: what it reads, its parameters, and what it makes, as names of arrays."""

    key: str
    piece: str  # of the course
    title: str
    says: str
    reads: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()


def inside(name: str) -> str:
    """The name of an array within its block.

    >>> inside("block_1/mlp/up"), inside("block_1"), inside("logits")
    ('mlp/up', 'block', 'logits')
    """
    block, _, rest = name.partition("/")
    return (rest or "block") if block.startswith("block_") else name


def stations(config: GPTConfig, blocks: range) -> Iterator[Station]:
    """All stations; the caller leaves out arrays that a model does not have."""
    yield from FIRST
    stream = "position_embedding" if config.adds_positions else "token_embedding"
    for i in blocks:
        yield from _block(f"block_{i}", stream)
        stream = f"block_{i}"
    table = "token_embedding/table" if config.tie_embeddings else "head/kernel"
    yield from _last(f"block_{config.n_layers - 1}", table)


FIRST = (
    Station(
        "tokens", "word_tokenizer", "Tokens",
        "The tokenizer cuts the text into tokens; each is a number, its place in the vocabulary. At every position the "
        "target is the token that comes next. One text so gives as many exercises as it has positions.",
        makes=("pairs",),
    ),
    Station(
        "token_embedding", "token_embedding", "Token embedding",
        "Each token looks up its row of a table. The row is all that the model knows of the token before it has read "
        "anything else. Backward, a row gets the sum of the gradients of all places that used it.",
        ("pairs",), ("token_embedding/table",), ("token_embedding",),
    ),
    Station(
        "position_embedding", "position_embedding", "Positions",
        "A row of a second table is added, one for each position. Without it attention could not tell an early word "
        "from a late one.",
        ("token_embedding",), ("position_embedding/table",), ("position_embedding",),
    ),
    Station(
        "simple_attention", "simple_attention", "Aside: simple attention",
        "Attention without parameters, on the embeddings themselves: similar words look at each other. The model does "
        "not use these three grids; they are the idea that the blocks refine.",
        ("token_embedding",), (), ("simple/scores", "simple/weights", "simple"),
    ),
)  # fmt: skip


def _block(at: str, x: str) -> Iterator[Station]:
    yield from _attention_heads(at, x)
    merged, out = f"{at}/attention/merged", f"{at}/attention/output"
    yield Station(
        f"{at}/merged", "multi_head_attention", "Heads merged",
        "Each head's weights mix the values of the positions that they look at. Side by side, the heads are one row "
        "again.",
        (f"{at}/attention/weights", f"{at}/attention/value"), (), (merged,),
    )  # fmt: skip
    yield Station(
        f"{at}/output", "multi_head_attention", "Output map",
        "A last linear map mixes what the heads have found.",
        (merged,), (f"{out}/kernel", f"{out}/bias"), (f"{at}/attention",),
    )  # fmt: skip
    yield Station(
        f"{at}/residual_1", "block", "Residual after attention",
        "The result is added to what came in, so that a block only has to say what it changes. Backward, the gradient "
        "takes both ways, and one of them is never scaled down.",
        (x, f"{at}/attention"), (), (f"{at}/residual_1",),
    )  # fmt: skip
    yield from _mlp(at)


def _attention_heads(at: str, x: str) -> Iterator[Station]:
    yield _norm(f"{at}/norm_1", x, "Norm before attention")
    said = {
        "query": "A linear map makes of each position what it looks for.",
        "key": "A second map makes of each position what others find it by. The bias adds the same to all scores of a "
        "row, which softmax ignores: its gradient is zero, and what is shown is rounding. AdamW scales even that up.",
        "value": "A third map makes of each position what it hands over to those that look at it.",
    }
    for name, says in said.items():
        made = f"{at}/attention/{name}"
        piece = "self_attention" if name == "value" else "linear_map"
        title = {"query": "Queries", "key": "Keys", "value": "Values"}[name]
        yield Station(
            f"{at}/{name}", piece, title, says, (f"{at}/norm_1",), (f"{made}/kernel", f"{made}/bias"), (made,)
        )  # fmt: skip
    steps = {
        "scores": ("self_attention", "Scores", "The dot product of a query (row) and a key (column), in each head."),
        "scaled": ("scaled_dot_product", "Scaled scores",
                   "Divided by the root of a head's width, so that wide heads do not start with extreme weights."),
        "masked": ("causal_attention", "Masked scores",
                   "What comes later must stay hidden, or the model would read the answer: its scores become minus "
                   "infinity."),
        "weights": ("causal_attention", "Weights",
                    "Softmax makes of each row shares that add up to 1. A hidden position gets 0."),
    }  # fmt: skip
    before: tuple[str, ...] = ("query", "key")
    for name, (piece, title, says) in steps.items():
        read, made = tuple(f"{at}/attention/{n}" for n in before), f"{at}/attention/{name}"
        yield Station(f"{at}/{name}", piece, title, says, read, (), (made,))
        before = (name,)


def _mlp(at: str) -> Iterator[Station]:
    up, down = f"{at}/mlp/up", f"{at}/mlp/down"
    yield _norm(f"{at}/norm_2", f"{at}/residual_1", "Norm before the MLP")
    yield Station(
        f"{at}/up", "mlp", "MLP: up",
        "Each position on its own now: a linear map to a wider row.",
        (f"{at}/norm_2",), (f"{up}/kernel", f"{up}/bias"), (up,),
    )  # fmt: skip
    yield Station(
        f"{at}/gelu", "mlp", "MLP: activation",
        "Without a function that is not straight, the two maps would be one. This one lets large numbers pass and "
        "holds negative ones back.",
        (up,), (), (f"{at}/mlp/gelu",),
    )  # fmt: skip
    yield Station(
        f"{at}/down", "mlp", "MLP: down",
        "And back to the width of the model.",
        (f"{at}/mlp/gelu",), (f"{down}/kernel", f"{down}/bias"), (f"{at}/mlp",),
    )  # fmt: skip
    yield Station(
        f"{at}/residual_2", "block", "Residual after the MLP",
        "Added again: this is the block's result.",
        (f"{at}/residual_1", f"{at}/mlp"), (), (at,),
    )  # fmt: skip


def _norm(made: str, x: str, title: str) -> Station:
    return Station(
        made, "layer_norm", title,
        "Each row loses its mean and is divided by its standard deviation s; then every feature gets a scale and a "
        "bias of its own. The second small grid is what the backward needs: a shift or stretch of a row changes "
        "nothing, so those parts of the gradient are taken out.",
        (x,), (f"{made}/scale", f"{made}/bias"), (f"{made}/statistics", f"{made}/means", made),
    )  # fmt: skip


def _last(x: str, table: str) -> Iterator[Station]:
    yield _norm("norm_final", x, "Final norm")
    tied = " It is the table of the token embedding once more, which is why its gradient has two parts."
    yield Station(
        "logits", "gpt", "Logits",
        "The row of each position is compared with the row of every token of the table."
        + (tied if table == "token_embedding/table" else ""),
        ("norm_final",), (table,), ("logits",),
    )  # fmt: skip
    yield Station(
        "loss", "cross_entropy", "Probabilities and loss",
        "Softmax makes probabilities of the logits. The loss of a position is minus the logarithm of what its target "
        "got. The gradient of the logits is what was predicted less what came, over the number of positions.",
        ("logits",), (), ("probabilities", "losses", "loss"),
    )  # fmt: skip
    yield Station(
        "step", "training_step", "The training step",
        "All gradients together are clipped to a largest norm. Then AdamW makes its first update of each parameter, "
        "from moments of zero; it stands below the gradient wherever a parameter is shown.",
        (), (), ("step/norms", "step/norm", "step/clip"),
    )  # fmt: skip
    yield Station(
        "sampling", "sampling", "Sampling",
        "To write on, the logits of the last position are divided by a temperature, here 0.8, and softmax gives the "
        "probabilities from which the next token is drawn.",
        ("logits",), (), ("sampling/scaled", "sampling"),
    )  # fmt: skip
