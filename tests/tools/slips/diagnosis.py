"""Mutations of the diagnosis of foreign models."""

from slips.mutation import Mutation

FOREIGN = "jaxllm/compare/foreign/"
DIAGNOSIS, FIT, SLIPS = f"{FOREIGN}diagnosis.py", f"{FOREIGN}fit.py", f"{FOREIGN}slips/"
HERE, STEPS = "compare/test_diagnosis.py::", "compare/test_planted_steps.py::"


def planted(case: str) -> str:
    return f"compare/test_planted_faults.py::test_a_planted_fault[{case}-numpy-float64-1e-09]"


MUTATIONS = [
    Mutation("a slip that explains the half", DIAGNOSIS, "EXPLAINED = 30 ", "EXPLAINED = 1 ", f"{HERE}test_a_departure_near_the_tolerance_is_not_explained"),
    Mutation("the first of two slips named", DIAGNOSIS, "if len({one.slip for one in bound}) != 1:", "if False:", f"{HERE}test_slips_that_the_record_does_not_tell_apart_are_not_named[1e-05]"),
    Mutation("slips of what ours does not compute", DIAGNOSIS, "remaining(ours(piece)) <= limit / 10", "remaining(ours(piece)) < np.inf", f"{HERE}test_what_ours_computes_may_be_given"),
    Mutation("what agrees is explained", DIAGNOSIS, "if parted <= tolerance:", "if False:", f"{HERE}test_what_agrees_has_no_diagnosis"),
    Mutation("an accuracy ten times as good", FIT, "max(remaining, 2.0**-52) / steepest", "max(remaining, 2.0**-52) / steepest / 10", f"{HERE}test_the_accuracy_doubles_what_remains[1e-06]"),
    Mutation("a fit that stays where it starts", FIT, "MOST_STEPS = 30", "MOST_STEPS = 0", f"{HERE}test_an_epsilon_is_fitted[0.0012345-fits epsilon = 0.0012345-1e-07]"),
    Mutation("epsilon always inside the root", f"{SLIPS}norm.py", "if outside:", "if True:", planted("gpt-2-block_1/norm_2-epsilon")),
    Mutation("the unbiased variance with D", f"{SLIPS}norm.py", "(x.shape[-1] - less) if less", "(x.shape[-1] - 0) if less", planted("gpt-2-norm_final-unbiased")),
    Mutation("another quick GELU", f"{SLIPS}mlp.py", "sigmoid(1.702 * x)", "sigmoid(1.7 * x)", planted("gpt-2-block_1/mlp/activation-quick")),
    Mutation("a mask two late", f"{SLIPS}masks.py", "(s <= t + 1)", "(s <= t + 2)", planted("gpt-2-block_1/attention/heads-late mask")),
    Mutation("a window one too wide", f"{SLIPS}masks.py", "causal & (t - s < width)", "causal & (t - s <= width)", planted("llama-block_1/attention/heads-window")),
    Mutation("pairs of the same form", f"{SLIPS}rotary.py", "_replace(interleaved=not interleaved)", "_replace(interleaved=interleaved)", planted("llama-block_1/attention/heads-interleaved")),
    Mutation("keys shifted too", f"{SLIPS}attending.py", 'how.query_shift if name == "query" else 0', "how.query_shift", planted("llama-block_1/attention/heads-late queries")),
    Mutation("key heads not tiled", f"{SLIPS}attending.py", "if how.tiled:", "if False:", planted("llama-block_0/attention/heads-tiled")),
    Mutation("a softmax over keys", f"{SLIPS}attending.py", "e.sum(axis=how.softmax_axis", "e.sum(axis=-1", planted("gpt-2-block_1/attention/heads-softmax over queries")),
    Mutation("bfloat16 cut off", f"{SLIPS}rounding.py", "np.uint64((1 << (cut - 1)) - 1) + odd", "np.uint64(0) + odd", planted("llama-block_1/mlp/down-bfloat16")),
    Mutation("positions from two", f"{SLIPS}position.py", "moved = positions + shift", "moved = positions + 2 * shift", planted("gpt-2-position_embedding-from one")),
    Mutation("parallel from the middle", f"{SLIPS}block.py", "says, lambda: middle + second(x))", "says, lambda: middle + second(2 * x))", planted("gpt-2-block_1-parallel")),
    Mutation("the tied table transposed twice", f"{SLIPS}head.py", "embeddings.token_logits(tied, x)", "embeddings.token_logits(2 * tied, x)", planted("llama-head-tied")),
    Mutation("departures not relative", f"{FOREIGN}hypotheses.py", "float(np.abs(x).max(initial=0) or", "float(1.0 or", f"{HERE}test_a_departure_near_the_tolerance_is_not_explained"),
    Mutation("slips of what is not known", f"{SLIPS}__init__.py", "if known:", "if not known:", planted("gpt-2-block_1/norm_2-epsilon")),
    Mutation("a scale of scores under another name", f"{SLIPS}attention.py", '"1 / sqrt(d_model)": 1 / math.sqrt(d)', '"1 / sqrt(d_model)": 1 / d', planted("llama-block_0/attention/heads-width")),
    Mutation("attention with the usual scale", f"{SLIPS}attending.py", "config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale", "config.head_dim**-0.5", f"{HERE}test_slips_start_from_what_ours_computes[attention-gemma-2]"),
    Mutation("a head rotated whole", f"{SLIPS}attending.py", "fraction=config.rotary_fraction, ", "", f"{HERE}test_slips_start_from_what_ours_computes[attention-neox]"),
    Mutation("the missing cap with the cap", f"{SLIPS}caps.py", "lambda: predict(None)", "lambda: predict(ours)", planted("capped-head-no cap")),
    Mutation("norms of results before them", f"{SLIPS}block.py", '((None, "norm_1"), (None, "norm_2"))', '(("norm_1", None), ("norm_2", None))', f"{HERE}test_slips_start_from_what_ours_computes[block-olmo-2]"),
    Mutation("the second half of a block in parallel", f"{SLIPS}block.py", "second(x if parallel else middle)", "second(middle)", f"{HERE}test_slips_start_from_what_ours_computes[block-neox]"),
    Mutation("embeddings scaled that are not", f"{SLIPS}embedding.py", "if piece.name == SCALED else 1.0", "if piece.name != SCALED else 1.0", f"{HERE}test_scaled_embeddings_are_rows_times_the_root_of_the_width"),
    Mutation("a factor under another name", f"{SLIPS}general.py", '"sqrt(d_model)": math.sqrt(d)', '"sqrt(d_model)": d', planted("llama-token_embedding-scaled")),
    Mutation("key heads repeated where they are tiled", f"{SLIPS}heads.py", "replace(how, tiled=True)", "replace(how, tiled=False)", planted("llama-block_0/attention/heads-tiled")),
    Mutation("the missing bias there", f"{SLIPS}linear.py", '"equals ours without the bias", lambda: layers.linear(x, kernel)', '"equals ours without the bias", lambda: layers.linear(x, kernel, bias)', planted("gpt-2-block_0/mlp/up-no bias")),
    Mutation("targets shifted the other way", f"{SLIPS}loss.py", "logits[:, :-1], targets[:, 1:]", "logits[:, 1:], targets[:, :-1]", f"{STEPS}test_a_loss[targets-shifted]"),
    Mutation("labels smoothed by their rest", f"{SLIPS}loss.py", "(1 - share) * each.mean() + share * uniform", "share * each.mean() + (1 - share) * uniform", f"{STEPS}test_a_loss[label-smoothing]"),
    Mutation("the part that is there left out", f"{SLIPS}gradient.py", "{name: parts[part]}", "{name: parts[other]}", f"{STEPS}test_gradients[tied-gradient]"),
    Mutation("a moment corrected all the same", f"{SLIPS}optimizer.py", "square = g**2 if second else (1 - b2) * g**2", "square = g**2", f"{STEPS}test_a_step[no-bias-correction]"),
    Mutation("the decay beside the gradient", f"{SLIPS}optimizer.py", "g = g if how.decoupled else g + decay * p", "g = g", f"{STEPS}test_a_step[decay-coupled]"),
]  # fmt: skip
