"""Mutations of the losses of answers, classes and preferences, of their measures, and of rows of several texts."""

from slips.mutation import Mutation, twin

GPT, LOSS, FAST_LOSS = "jaxllm/gpt.py", "jaxllm/loss.py", "jaxllm/fast/loss.py"
REFERENCE = "jaxllm/reference/loss.py"
OBJECTIVES, MEASURES, LOG_PROBS = (
    f"train/tune/{name}.py" for name in ("objectives", "measures", "reference_log_probs")
)
PACKED = "model/test_packed_rows.py::test_each_text_is_as_it_is_alone"
CLASSIFIER = "model/test_classifier.py"
ANSWERS = "model/test_answer_losses.py"
TUNED = "tune/test_objectives.py"
OF_LABELS, OF_PAIRS = f"{TUNED}::test_a_label_is_of_the_last_token", f"{TUNED}::test_preferences_are_the_reference"
MEASURED, KEPT = "tune/test_measures.py", "tune/test_reference_log_probs.py"

MUTATIONS = [
    Mutation("a text's positions forgotten", GPT, "self.embed(tokens, positions, documents)", "self.embed(tokens, None, documents)", f"{PACKED}[learned]"),
    Mutation("texts of a row attend to each other", GPT, "documents = documents if separator is None else", "documents = None if separator is None else", f"{PACKED}[rotary]"),
    Mutation("texts forgotten where documents are apart too", "jaxllm/attention.py", "(jnp.diff(texts, axis=-1, prepend=texts[..., :1]) != 0)", "False", f"{PACKED}[separated too]"),
    Mutation("a rule of places in the row taken for places in a text", GPT, "if documents is not None and getattr(config, field) is not None:", "if False:", "model/test_packed_rows.py::test_what_cannot_be_packed", "DID NOT RAISE"),
    Mutation("logits of classes in half precision", GPT, "y = at_least_float32(self.classifier(x))", "y = self.classifier(x)", f"{CLASSIFIER}::test_logits_are_float32_in_half_precision"),
    Mutation("a classifier that does not begin at zero", "jaxllm/fast/init.py", 'path[-2] in ("head", "classifier")', 'path[-2] == "head"', f"{CLASSIFIER}::test_its_first_parameters[True]"),
    Mutation("tokens drawn from classes", "jaxllm/config.py", "if config.n_classes:\n        raise", "if False:\n        raise", f"{CLASSIFIER}::test_what_needs_a_head_refuses_it", "Error"),
    Mutation("a question is learned", LOSS, "return jnp.where(here, token_losses(logits, jnp.where(here, targets, 0)), 0)", "return token_losses(logits, jnp.where(here, targets, 0))", f"{ANSWERS}::test_what_is_not_learned_has_no_gradient"),
    Mutation("every negative target taken for one that is not learned", LOSS, "return targets != NOT_LEARNED", "return targets >= 0", f"{ANSWERS}::test_what_is_not_learned_has_no_gradient"),
    Mutation("a chosen answer compared with the rejected one's reference", LOSS, "beta * ((chosen - reference_chosen) - (rejected - reference_rejected))", "beta * ((chosen - reference_rejected) - (rejected - reference_chosen))", twin("loss.dpo_margins")),
    Mutation("the rejected answer preferred", LOSS, "jax.nn.softplus(-dpo_margins(", "jax.nn.softplus(dpo_margins(", twin("loss.dpo_losses")),
    Mutation("a preference's slope without its sign", REFERENCE, "np.asarray(dy) * np.expm1(-losses)", "np.asarray(dy) * -np.expm1(-losses)", twin("loss.dpo_losses")),
    Mutation("logits of the last chunk's padding counted", FAST_LOSS, "[: targets.size].reshape(targets.shape).sum(-1)", "[-targets.size :].reshape(targets.shape).sum(-1)", f"{ANSWERS}::test_answers_in_chunks_are_the_formula[21]"),
    Mutation("all logits of answers kept", FAST_LOSS, "    @jax.checkpoint\n    def chunk(rows: tuple[Array, ...]) -> Array:", "    def chunk(rows: tuple[Array, ...]) -> Array:", f"{ANSWERS}::test_log_probabilities_never_hold_all_logits"),
    Mutation("questions count as learned", OBJECTIVES, "jnp.maximum(learned(targets.ids).sum(), 1)", "jnp.maximum(targets.ids.size, 1)", f"{TUNED}::test_answers_count_alone"),
    Mutation("packed answers attend to each other", OBJECTIVES, "return {} if targets.documents is None else", "return {} if True else", f"{TUNED}::test_packed_answers_are_those_of_each_example_alone"),
    Mutation("padding counts as classified right", OBJECTIVES, "right = learned(targets.ids) & (", "right = ~learned(targets.ids) | (", OF_LABELS),
    Mutation("a filled row counts as a pair", OBJECTIVES, "jnp.where(counts, losses, 0).sum(), sums", "losses.sum(), sums", OF_PAIRS),
    Mutation("an answer's log-probability goes to the other", OBJECTIVES, "summed.reshape(inputs.shape[:2])", "summed.reshape(inputs.shape[1::-1]).T", OF_PAIRS),
    Mutation("batches weigh alike, whatever they hold", MEASURES, "value / count for name", "value / len(sums[name]) for name", f"{MEASURED}::test_figures_of_answers_and_labels[instruct-3]"),
    Mutation("rows and columns of confusion exchanged", MEASURES, "(np.asarray(targets.ids)[here], given[here])", "(given[here], np.asarray(targets.ids)[here])", f"{MEASURED}::test_confusion_counts_each_text_once"),
    Mutation("another base's log-probabilities read", LOG_PROBS, "if shapes == wanted and header.metadata == _metadata(key, found) else None", "if shapes == wanted else None", f"{KEPT}::test_each_part_of_the_key_counts[base]"),
    Mutation("other pairs' log-probabilities read", LOG_PROBS, '"pairs": data.fingerprint(), ', "", f"{KEPT}::test_another_key_is_computed_again"),
    Mutation("a filled row's log-probability kept", LOG_PROBS, "np.concatenate(found)[:n]", "np.concatenate(found)", f"{KEPT}::test_filled_rows_are_left_out"),
]  # fmt: skip
