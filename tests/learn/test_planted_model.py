"""Mistakes as a learner makes them, in the text of right solutions of pieces 8 to 16, are named."""

from pathlib import Path

import pytest
from learn.planted import names_given, planted

pytestmark = pytest.mark.newest

SA, SELF, SDP, CA = "simple_attention", "self_attention", "scaled_dot_product", "causal_attention"
MHA, NORM, MLP, BLOCK, GPT = "multi_head_attention", "layer_norm", "mlp", "block", "gpt"

# style, piece, function, what is there, what is planted, the slips that it is named
PLANTED = [
    ("library", SA, "softmax", "axis=-1", "axis=0", ["first-axis"]),
    ("library", SA, "softmax", "axis=-1", "axis=-2", ["wrong-axis"]),
    ("library", SA, "softmax", "axis=-1", "axis=1", ["second-axis"]),
    ("library", SA, "softmax", ", axis=-1", "", ["over-everything"]),
    ("library", SA, "softmax", "special.softmax", "special.log_softmax", ["log-softmax"]),
    ("einsum", SA, "softmax", "np.exp(x - logarithm)", "x - logarithm", ["log-softmax"]),
    ("einsum", SA, "softmax", "np.exp(x - logarithm)", "np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)", ["no-max-subtraction"]),
    ("einsum", SA, "softmax", "np.exp(x - logarithm)", "np.exp(x - x.max()) / np.exp(x - x.max()).sum(axis=-1, keepdims=True)", ["one-maximum-for-all"]),
    ("loops", SA, "softmax", "power / sum(powers)", "power", ["no-normalisation"]),
    ("loops", SA, "softmax", "math.exp(score - largest)", "2 ** (score - largest)", ["base-2"]),
    ("library", SA, "simple_attention_weights", "x @ x.T)", "x @ x.T / x.shape[1] ** 0.5)", ["scaled"]),
    ("library", SA, "simple_attention_weights", "x @ x.T)", "x.T @ x)", ["features-for-words"]),
    ("library", SA, "simple_attention_weights", "softmax(x @ x.T)", "softmax(x @ x.T).T", ["softmax-over-queries", "weights-transposed"]),
    ("einsum", SA, "simple_attention", "ts,sd->td", "st,sd->td", ["softmax-over-queries"]),
    ("library", SA, "simple_attention", "(x) @ x", "(x) @ x + x", ["residual"]),
    ("einsum", SELF, "attention_scores", "->ts", "->st", ["query-and-key-swapped"]),
    ("einsum", SELF, "attention_scores", "x, key)", "x, query)", ["one-matrix-for-both"]),
    ("loops", SELF, "attention_scores", "product(x, query), product(x, key)", "x, x", ["not-projected"]),
    ("library", SELF, "self_attention", "key), -1)", "key), 0)", ["softmax-over-queries"]),
    ("library", SELF, "self_attention", "(x @ value)", "x", ["values-not-projected"]),
    ("library", SELF, "self_attention", "(x @ value)", "(x @ key)", ["keys-as-values"]),
    ("library", SELF, "self_attention", "key), -1)", "key) / key.shape[1] ** 0.5, -1)", ["scaled"]),
    ("loops", SELF, "self_attention", "softmax(attention_scores(x, query, key))", "attention_scores(x, query, key)", ["no-softmax"]),
    ("library", SDP, "scaled_dot_product_attention", " / np.sqrt(k.shape[-1])", "", ["no-scale"]),
    ("library", SDP, "scaled_dot_product_attention", "np.sqrt(k.shape[-1])", "k.shape[-1]", ["scale-by-width"]),
    ("library", SDP, "scaled_dot_product_attention", "np.sqrt(k.shape[-1])", "np.sqrt(k.shape[-2])", ["scale-by-keys"]),
    ("library", SDP, "scaled_dot_product_attention", "np.sqrt(k.shape[-1])", "np.sqrt(v.shape[-1])", ["scale-by-values"]),
    ("library", SDP, "scaled_dot_product_attention", "axis=-1", "axis=-2", ["softmax-over-queries"]),
    ("library", SDP, "scaled_dot_product_attention", "-np.inf", "0", ["mask-as-zero"]),
    ("library", SDP, "scaled_dot_product_attention", "where(mask, scores, -np.inf)", "where(mask, -np.inf, scores)", ["mask-inverted"]),
    ("library", SDP, "scaled_dot_product_attention", "np.where(mask, scores, -np.inf)", "scores + mask", ["mask-added"]),
    ("library", SDP, "scaled_dot_product_attention", "np.where(mask, scores, -np.inf)", "scores * mask", ["mask-as-zero"]),
    ("einsum", SDP, "scaled_dot_product_attention", "1e9 * (1 - np.asarray(mask, float))", "1e9 * np.asarray(mask, float)", ["mask-inverted"]),
    ("einsum", SDP, "scaled_dot_product_attention", "** -0.5", "** 0.5", ["scale-multiplied"]),
    ("loops", SDP, "scaled_dot_product_attention", " if mask is None or mask[t][s]", "", ["mask-ignored"]),
    ("loops", SDP, "scaled_dot_product_attention", " / sum(powers.values())", "", ["no-normalisation"]),
    ("library", CA, "causal_mask", "dtype=bool)", "dtype=bool, k=1)", ["one-late"]),
    ("library", CA, "causal_mask", "np.tri(length, dtype=bool)", "~np.tri(length, dtype=bool)", ["inverted"]),
    ("einsum", CA, "causal_mask", ">=", "<=", ["transposed"]),
    ("einsum", CA, "causal_mask", ">=", ">", ["one-early"]),
    ("library", CA, "causal_attention", "dtype=bool)", "dtype=bool, k=-1)", ["mask-one-early-infinite"]),
    ("library", CA, "causal_attention", "np.tri(length, dtype=bool)", "~np.tri(length, dtype=bool)", ["mask-inverted-infinite"]),
    ("library", CA, "causal_attention", "dtype=bool)", "dtype=bool, k=1)", ["mask-one-late"]),
    ("library", CA, "causal_attention", ", causal_mask(q.shape[-2])", "", ["not-causal"]),
    ("loops", CA, "causal_attention", "v[..., until, :]", "k[..., until, :]", ["keys-as-values"]),
    ("library", MHA, "split_heads", "np.stack(np.split(x, n_heads, axis=-1), axis=-3)", "x.reshape(*x.shape[:-2], n_heads, x.shape[-2], -1)", ["reshaped"]),
    ("library", MHA, "split_heads", "axis=-3", "axis=-2", ["not-transposed"]),
    ("einsum", MHA, "split_heads", '"...thk->...htk", x.reshape(*x.shape[:-1], n_heads, -1)', '"...tkh->...htk", x.reshape(*x.shape[:-1], -1, n_heads)', ["every-nth-feature"]),
    ("library", MHA, "merge_heads", "swapped = np.swapaxes(x, -3, -2)", "swapped = np.swapaxes(x, -3, -2)\n    return x.reshape(swapped.shape[:-2] + (-1,))", ["reshaped"]),
    ("einsum", MHA, "merge_heads", "->...thk", "->...tkh", ["heads-take-turns"]),
    ("library", MHA, "multi_head_attention", "np.stack(np.split(x, n_heads, axis=-1), axis=-3)", "x.reshape(*x.shape[:-2], n_heads, x.shape[-2], -1)", ["split-reshaped"]),
    ("library", MHA, "multi_head_attention", ' + params["output"]["bias"]', "", ["no-output-bias"]),
    ("library", MHA, "multi_head_attention", ' + params[name]["bias"]', "", ["no-input-biases"]),
    ("library", MHA, "multi_head_attention", '("query", "key", "value")', '("key", "query", "value")', ["query-and-key-swapped"]),
    ("library", MHA, "multi_head_attention", '("query", "key", "value")', '("query", "key", "key")', ["keys-as-values"]),
    ("einsum", MHA, "multi_head_attention", "x.shape[-1] / n_heads", "x.shape[-1]", ["scale-by-model-width"]),
    ("einsum", MHA, "multi_head_attention", "bool), 1)] = -np.inf", "bool), 2)] = -np.inf", ["mask-one-late"]),
    ("library", NORM, "layer_norm", "np.var(x, axis=-1, keepdims=True)", "np.var(x, axis=-1, keepdims=True, ddof=1)", ["unbiased-variance"]),
    ("library", NORM, "layer_norm", "keepdims=True) + epsilon)", "keepdims=True)) + epsilon", ["epsilon-outside-root"]),
    ("library", NORM, "layer_norm", " + epsilon", "", ["no-epsilon"]),
    ("library", NORM, "layer_norm", "axis=-1", "axis=-2", ["over-positions"]),
    ("library", NORM, "layer_norm", "axis=-1", "axis=0", ["first-axis"]),
    ("library", NORM, "layer_norm", "axis=-1", "axis=None", ["over-all-axes"]),
    ("library", NORM, "layer_norm", "np.subtract(x, np.mean(x, axis=-1, keepdims=True))", "x", ["mean-only-in-variance"]),
    ("library", NORM, "layer_norm", "* scale + bias", "* bias + scale", ["scale-and-bias-swapped"]),
    ("loops", NORM, "layer_norm", "math.sqrt(variance + epsilon)", "variance + epsilon", ["no-root"]),
    ("loops", NORM, "layer_norm", "(number - mean) ** 2", "number ** 2", ["mean-square-for-variance"]),
    ("loops", MLP, "gelu", "number**3", "number**2", ["square-for-cube"]),
    ("loops", MLP, "gelu", " + 0.044715 * number**3", "", ["no-cube"]),
    ("loops", MLP, "gelu", "math.sqrt(2 / math.pi)", "2 / math.pi", ["no-root"]),
    ("loops", MLP, "gelu", "1 + math.tanh", "math.tanh", ["no-one-plus"]),
    ("library", MLP, "gelu", "special.expit(2 * np.sqrt(2 / np.pi) * np.polyval([0.044715, 0, 1, 0], x))", "special.ndtr(x)", ["exact"]),
    ("library", MLP, "gelu", "special.expit(2 * np.sqrt(2 / np.pi) * np.polyval([0.044715, 0, 1, 0], x))", "special.expit(1.702 * x)", ["sigmoid"]),
    ("loops", MLP, "mlp", "gelu(linear(params[\"up\"], x))", "linear(params[\"up\"], x)", ["no-activation"]),
    ("loops", MLP, "mlp", "linear(params[\"down\"], gelu(linear(params[\"up\"], x)))", "gelu(linear(params[\"down\"], linear(params[\"up\"], x)))", ["activation-after-down"]),
    ("library", MLP, "mlp", 'params["up"]["kernel"]) + params["up"]["bias"])', 'params["up"]["kernel"])) + params["up"]["bias"]', ["bias-after-activation"]),
    ("einsum", BLOCK, "block", "x = x + multi", "x = multi", ["no-residual-around-attention"]),
    ("einsum", BLOCK, "block", "return x + mlp", "return mlp", ["no-residual-around-mlp"]),
    ("einsum", BLOCK, "block", '"norm_2"', '"norm_1"', ["first-norm-twice"]),
    ("einsum", BLOCK, "block", 'norm(params["norm_2"], x)', "x", ["no-second-norm"]),
    ("library", BLOCK, "block", "return middle", "return x", ["residual-from-input"]),
    ("library", BLOCK, "block", "layer_norm(middle,", "layer_norm(x,", ["mlp-reads-input"]),
    ("einsum", GPT, "gpt", '    x = x + params["position_embedding"]["table"][None, : tokens.shape[1]]\n', "", ["no-positions"]),
    ("einsum", GPT, "gpt", "int(name[6:])", "-int(name[6:])", ["blocks-reversed"]),
    ("einsum", GPT, "gpt", 'norm(params["norm_final"], x)', "x", ["no-final-norm"]),
    ("library", GPT, "gpt", "np.transpose(table)", "table.reshape(table.shape[::-1])", ["table-reshaped"]),
    ("library", GPT, "gpt", "len(params) - 3", "len(params) - 4", ["last-block-missing"]),
    ("library", GPT, "gpt", "params[f\"block_{i}\"] for", "params[\"block_0\"] for", ["same-block-repeated"]),
    ("library", GPT, "gpt", "np.take(table, tokens, axis=0)", "np.take(table, tokens, axis=0) * table.shape[1] ** 0.5", ["embeddings-scaled"]),
    ("library", GPT, "gpt", "block(one, x, n_heads)", "block(one, embedded, n_heads)", ["last-block-only"]),
]  # fmt: skip


# two mistakes in one body, and the pair that it is named
PAIRS = [
    ("library", SDP, "scaled_dot_product_attention", {" / np.sqrt(k.shape[-1])": "", "axis=-1": "axis=-2"}, ("no-scale", "softmax-over-queries")),
    ("library", SDP, "scaled_dot_product_attention", {" / np.sqrt(k.shape[-1])": "", "-np.inf": "0"}, ("no-scale", "mask-as-zero")),
    ("einsum", CA, "causal_attention", {">=": "<=", "attention(q, k, v,": "attention(k, q, v,"}, ("mask-transposed", "query-and-key-swapped")),
    ("einsum", MHA, "multi_head_attention", {"x.shape[-1] / n_heads": "x.shape[-1]", ' + params["output"]["bias"]': ""}, ("no-output-bias", "scale-by-model-width")),
    ("library", NORM, "layer_norm", {"keepdims=True) + eps": "keepdims=True, ddof=1) + eps", "scale + bias": "scale"}, ("unbiased-variance", "bias-forgotten")),
    ("library", NORM, "layer_norm", {"axis=-1": "axis=-2", " + epsilon": ""}, ("over-positions", "no-epsilon")),
    ("loops", MLP, "gelu", {"number**3": "number**2", "1 + math.tanh": "math.tanh"}, ("square-for-cube", "no-one-plus")),
    ("einsum", BLOCK, "block", {"x = x + multi": "x = multi", '"norm_2"': '"norm_1"'}, ("no-residual-around-attention", "first-norm-twice")),
    ("library", GPT, "gpt", {"len(params) - 3": "len(params) - 4", "np.transpose(table)": "table.reshape(table.shape[::-1])"}, ("last-block-missing", "table-reshaped")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("style", "name", "function", "old", "new", "slips"),
    [pytest.param(*one, id=f"{one[0]}-{one[2]}-{i}") for i, one in enumerate(PLANTED)],
)
def test_a_planted_mistake_is_named(
    style: str, name: str, function: str, old: str, new: str, slips: list[str], tmp_path: Path
) -> None:
    """Whatever the inputs are: with two seeds that no slip was tuned on."""
    module = planted(style, name, {old: new}, tmp_path / "solutions")
    for seed in (101, 202):
        assert names_given(module, name, function, seed) == [(slip,) for slip in slips]


@pytest.mark.parametrize(
    ("style", "name", "function", "replacements", "pair"),
    [pytest.param(*one, id=f"{one[0]}-{one[2]}-{i}") for i, one in enumerate(PAIRS)],
)
def test_two_planted_mistakes_are_named(
    style: str, name: str, function: str, replacements: dict[str, str], pair: tuple[str, str], tmp_path: Path
) -> None:
    """Both at once."""
    module = planted(style, name, replacements, tmp_path / "solutions")
    for seed in (101, 202):
        assert pair in (names_given(module, name, function, seed) or [])
