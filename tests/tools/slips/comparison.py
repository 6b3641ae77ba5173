"""Mutations of the NumPy reference and of the comparisons."""

from slips.mutation import Mutation, module, twin


def derivative(name: str) -> str:
    return f"model/test_reference.py::test_the_backward_is_the_derivative[{name}]"


def left_out(case: str) -> str:
    return f"training/test_nonfinite.py::test_the_reference_leaves_out_what_is_not_finite_in_either[{case}]"


ARRAYS, REFERENCE = "jaxllm/reference/arrays.py", "jaxllm/reference/"
CALLS, FUNCTION, MEASURE, REPORT, DIFFERENCES = (
    f"jaxllm/compare/{name}.py" for name in ("calls", "function", "measure", "report", "finite_differences")
)
IDEAS = "compare/test_ideas.py"
FEW_DIGITS = "jaxllm/compare/few_digits.py"
MODEL, TOLERANCES, TREES = (f"jaxllm/compare/{name}.py" for name in ("model", "tolerances", "trees"))

MUTATIONS = [
    Mutation("a broadcast axis not summed", ARRAYS, "if n == 1 and gradient.shape[i] != 1)", "if False)", derivative("layers.dropout")),
    Mutation("the reference's window one too wide", f"{REFERENCE}attention.py", "distance < (np.inf", "distance <= (np.inf", twin("attention.causal_mask", 2)),
    Mutation("the reference's chunks without a window", f"{REFERENCE}attention.py", "return causal_mask(np.shape(q)[-2], window, rule) if", "return causal_mask(np.shape(q)[-2], None, rule) if", twin("attention.causal_dot_product_attention", 5)),
    Mutation("the reference's score without its slope", f"{REFERENCE}attention.py", "back(sum_to(dy, np.shape(out)))[0]", "sum_to(dy, np.shape(out))", derivative("attention.change_scores")),
    Mutation("gradient of weights that lie by outputs twice", f"{REFERENCE}fast/few_rows.py", "return dx, dkernel.T", "return dx, 2 * dkernel.T", derivative("fast.few_rows.rows_product")),
    Mutation("a shared key head hears one of its query heads twice", f"{REFERENCE}fast/cached_gpt.py", "key_back(dk)[0]", "2 * key_back(dk)[0]", derivative("fast.cached_gpt.grouped_attention")),
    Mutation("a token twice in a text counts once", f"{REFERENCE}embeddings.py", "np.add.at(d_table, tokens[inside], dy[inside])", "d_table[tokens[inside]] = dy[inside]", "model/test_reference.py::test_tokens_outside_have_no_gradient"),
    Mutation("a tied table's gradient from the embedding only", f"{REFERENCE}gpt.py", "d_table + d_head if", "d_table if", derivative("gpt.forward")),
    Mutation("no slope at ReLU's kink", f"{REFERENCE}layers.py", "np.heaviside(x, 0.5)", "np.heaviside(x, 0)", "model/test_reference.py::test_relu_has_half_a_slope_at_its_kink"),
    Mutation("the lens with the default epsilon", f"{REFERENCE}logit_lens.py", 'x = norm(params["norm_final"], x, config.norm, config.norm_epsilon)', 'x = norm(params["norm_final"], x, config.norm)', twin("logit_lens.logit_lens", 1), "ValueError: reference_vjp returns another result"),
    Mutation("the gradient of a mean's weights as of a sum's", f"{REFERENCE}loss.py", "dy * (losses - loss) / w.sum()", "dy * losses / w.sum()", twin("loss.cross_entropy", 1)),
    Mutation("no gradient of x as values", f"{REFERENCE}multi_head.py", "dx + from_key + from_value", "dx + from_key", module("MultiHeadAttention")),
    Mutation("clipped at the limit itself", f"{REFERENCE}optimizer.py", "gradients if norm <= limit", "gradients if norm < limit", "model/test_reference.py::test_clipping_shortens_and_never_turns"),
    Mutation("bytes of 128", f"{REFERENCE}fast/quantised_weights.py", "keepdims=True) / 127", "keepdims=True) / 128", "model/test_quantised_weights.py::test_quantised_functions_agree_with_their_twins[shape2]"),
    Mutation("another frequency is the first to be scaled", f"{REFERENCE}rotary.py", "original_context / high_frequency:", "original_context / low_frequency:", twin("rotary.rotary_frequencies", 1)),
    Mutation("equals of the last token left out", f"{REFERENCE}sampling.py", "kept = logits[row] >= smallest", "kept = logits[row] > smallest", twin("sampling.top_p")),
    Mutation("the reference takes an infinite loss for finite", f"{REFERENCE}step.py", "if not_finite < 0 and not math.isfinite(mean_loss):", "if False:", left_out("inf-1.0-0")),
    Mutation("a step that the reference leaves out not counted", f"{REFERENCE}step.py", "return state._replace(step=state.step + 1), metrics", "return state, metrics", left_out("1.0-inf-1")),
    Mutation("cotangents of ones", CALLS, "rng.normal(size=y.shape)", "np.ones(y.shape)", "compare/test_function.py::test_cotangents_are_random"),
    Mutation("integers within a tolerance", FUNCTION, "replace(row, tolerance=0.0)", "row", "compare/test_function.py::test_each_result_has_its_own_scale_and_integers_are_equal"),
    Mutation("a confident model beyond tolerance", "jaxllm/compare/scales.py", '/ own["logits"]) if', '* 0) if', "compare/test_scales.py::test_a_confident_model_is_within_tolerance"),
    Mutation("a jump from the last error, not the largest", REPORT, "found or jump, max(before, row.relative)", "found or jump, row.relative", "compare/test_report.py::test_a_jump_is_from_the_largest_error_before"),
    Mutation("a jump at ten times and no more", REPORT, "row.relative > JUMP * before", "row.relative >= JUMP * before", "compare/test_report.py::test_a_jump_is_from_the_largest_error_before"),
    Mutation("a scale of 0 taken for none", MEASURE, "scale = own if scale is None else scale", "scale = scale or own", "compare/test_report.py::test_a_scale_of_zero_is_a_scale"),
    Mutation("the last of equal rows named", REPORT, "worst = max(compared,", "worst = max(reversed(compared),", "compare/test_report.py::test_of_equal_rows_the_first_is_named"),
    Mutation("no step from zeros", FEW_DIGITS, "** 2))) or 1.0", "** 2)))", "compare/test_finite_differences.py::test_the_gradient_of_an_argument_that_is_all_zeros_is_tested[None]"),
    Mutation("a wrong gradient excused", DIFFERENCES, "if row.passed or (doubt.passed and row.relative > ACCURACY):", "if row.passed:", "compare/test_finite_differences.py::test_a_wrong_gradient_of_a_smooth_reference_is_not_excused"),
    Mutation("a reference of JAX in float32", CALLS, "with jax.enable_x64(True):", "with jax.enable_x64(False):", "compare/test_calls.py::test_jaxs_own_function_is_a_reference[softmax0-float64]"),
    Mutation("a dataclass within a dataclass", CALLS, "_by_field(leaf, registered) if", "_by_field(leaf, lambda value: value) if", "compare/test_calls.py::test_results_that_are_dataclasses[float64-Plain]", "TypeError"),
    Mutation("ten times the tolerance", TOLERANCES, '"float32": (1e-5, 1e-5)', '"float32": (1e-4, 1e-5)', "compare/test_function.py::test_the_bounds_are_those_of_the_readme"),
    Mutation("a reference that writes into the arguments", TREES, "return np.array(x, np.float64)", "return np.asarray(x, np.float64)", "compare/test_function.py::test_a_reference_that_changes_its_input_changes_nothing", "ValueError: output array is read-only"),
    Mutation("a ReLU on the other side of zero unnoticed", MODEL, "if flipped:", "if False:", "compare/test_model_and_optimizer.py::test_a_relu_flipped_by_rounding_is_noted_and_within_tolerance"),
    Mutation("biases of zero", "jaxllm/compare/random_parameters.py", "z = 0.1 * z", "z = 0 * z", "compare/test_model_and_optimizer.py::test_random_parameters_hide_nothing"),
    Mutation("another coefficient of Newton and Schulz", f"{REFERENCE}muon.py", "2.0315)", "2.0)", "model/test_reference.py::test_newton_schulz_keeps_the_singular_vectors[shape0]"),
    Mutation("a decay from the warm-up on", f"{REFERENCE}schedules.py", "straight_down(config, steps * (1 - config.decay_share),", "straight_down(config, config.warmup_steps,", "model/test_reference.py::test_the_other_schedules_by_their_corners[wsd-begin0-middle0-0.01]"),
    Mutation("an average that is not divided", f"{REFERENCE}update_rules.py", "(y - (1 - b1) * z) / b1, params, state.z)", "(y - (1 - b1) * z), params, state.z)", "training/test_optimizers.py::test_a_step_agrees_with_its_twin[schedule_free_adamw]"),
    Mutation("a random state whose counters begin at 0", "jaxllm/compare/optimizer_states.py", "jnp.asarray(step + first[name], leaf.dtype)", "jnp.asarray(first[name], leaf.dtype)", "training/test_optimizers.py::test_a_step_agrees_with_its_twin[lion]"),
    Mutation("gradients that only Optax clips", "jaxllm/compare/optimizer.py", "clipped = reference.optimizer.clip_by_global_norm(gradients, config.clip_norm)", "clipped = gradients", "training/test_optimizers.py::test_a_step_agrees_with_its_twin[sgd]"),
    Mutation("what is held to nothing beyond tolerance", MEASURE, "return self.compared and not self.passed", "return not self.passed", "compare/test_report.py::test_what_is_held_to_nothing_is_neither_ok_nor_beyond"),
    Mutation("what is held to nothing counted as compared", REPORT, "compared = [row for row in self.rows if row.compared]", "compared = list(self.rows)", "compare/test_report.py::test_what_is_held_to_nothing_is_neither_ok_nor_beyond"),
    Mutation("gradients held that depend on a function without a twin", "jaxllm/compare/twins.py", 'row.stage != "forward" or row.name in from_there', "row.name in from_there", f"{IDEAS}::test_what_depends_on_a_function_without_a_twin_is_held_to_nothing"),
    Mutation("a user's backward not taken", "jaxllm/compare/twins.py", "if idea.twin_vjp is not None:", "if False:", f"{IDEAS}::test_a_wrong_backward_of_a_twin_is_found"),
]  # fmt: skip
