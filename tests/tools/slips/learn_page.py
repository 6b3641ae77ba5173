"""Mutations of the page of `jaxllm learn show`."""

from slips.mutation import Mutation

PARTS = "learn/test_page_parts.py"
HERE = "train/learn/page"

MUTATIONS = [
    Mutation("a step without a run", "train/commands/learn_show.py", "if path is None and (arguments.step or arguments.code):", "if path is None and arguments.code:", f"{PARTS}::test_wrong_words_are_one_sentence[words5-there is no --run]"),
    Mutation("a page under any name", "train/commands/learn_show.py", '    check_output("--out", arguments.out, (".html",))\n', "", f"{PARTS}::test_wrong_words_are_one_sentence[words1-must end in .html]"),
    Mutation("the first features of the first head", f"{HERE}/axes.py", "inner = [h * config.head_dim + j for", "inner = [h * self._width + j for", f"{PARTS}::test_a_part_of_a_large_model_is_chosen"),
    Mutation("tokens of the text not in the table", f"{HERE}/axes.py", "return sorted({*used, *others[: max(0, most - len(set(used)))]})", "return sorted({*used, *others[:most]})", f"{PARTS}::test_a_part_of_a_large_model_is_chosen"),
    Mutation("sampling after the first token", f"{HERE}/calls.py", '"next_token_probabilities", [logits[-1],', '"next_token_probabilities", [logits[0],', f"{PARTS}::test_the_right_functions_make_what_the_twin_makes"),
    Mutation("an update from gradients that are not clipped", f"{HERE}/calls.py", "given = [old, factor * gradient, zeros,", "given = [old, gradient, zeros,", f"{PARTS}::test_the_right_functions_make_what_the_twin_makes"),
    Mutation("scores without biases", f"{HERE}/calls.py", "np.concatenate([kernel, bias[None]])", "np.concatenate([kernel, 0 * bias[None]])", f"{PARTS}::test_the_right_functions_make_what_the_twin_makes"),
    Mutation("a head of its own turned over", f"{HERE}/formulas.py", 'else ("head/kernel", "", "b")', 'else ("head/kernel", "b", "")', f"{PARTS}::test_the_head_is_the_table_or_a_map_of_its_own[False]"),
    Mutation("the formula of a grid that is not there", f"{HERE}/formulas.py", 'q, k, v, merged = (f"{at}/{name}" for name in ("query", "key", "value", "merged"))', 'q, k, v, merged = (f"{at}/{name}" for name in ("query", "key", "value", "mixed"))', f"{PARTS}::test_every_formula_reads_grids_that_have_a_shape"),
    Mutation("vectors that decay on the page", f"{HERE}/formulas.py", "config.weight_decay * (n > 1)", "config.weight_decay * (n > 0)", f"{PARTS}::test_only_matrices_decay"),
    Mutation("the first head for all", f"{HERE}/grids.py", "(x[int(head[1:])] if head else x for x in (ours, twin))", "(x[0] if head else x for x in (ours, twin))", f"{PARTS}::test_the_numbers_of_a_grid_are_at_its_place"),
    Mutation("our numbers under their name", f"{HERE}/grids.py", "ours = self._theirs.arrays[key] if known else ours", "ours = ours if known else ours", f"{PARTS}::test_theirs_is_shown_and_said_to_be_theirs"),
    Mutation("a context that cuts the text", f"{HERE}/model.py", "length = max(CONTEXT, len(tokenizer.encode(text, ())))", "length = CONTEXT", f"{PARTS}::test_a_text_fits_in_the_small_model"),
    Mutation("the end of a text as one of its tokens", f"{HERE}/page.py", "if len(ids) - 1 > most:", "if len(ids) > most:", f"{PARTS}::test_a_text_is_cut_into_inputs_and_targets", "a page shows at most"),
    Mutation("a text that ends the data", f"{HERE}/page.py", '.replace("<", "\\\\u003c")', "", f"{PARTS}::test_no_text_ends_the_data_of_a_page", "JSONDecodeError"),
    Mutation("each block reads the embeddings", f"{HERE}/stations.py", '        yield from _block(f"block_{i}", stream)\n        stream = f"block_{i}"\n', '        yield from _block(f"block_{i}", stream)\n', f"{PARTS}::test_a_station_reads_what_the_one_before_it_made"),
    Mutation("an array without rows and columns", f"{HERE}/stations.py", '"mlp/gelu": "tf",', "", f"{PARTS}::test_a_station_reads_what_the_one_before_it_made"),
    Mutation("a wrong number that passes", f"{HERE}/theirs.py", "            self.wrong.add(who)", "            pass", f"{PARTS}::test_a_result_is_judged[<lambda>-None1]"),
    Mutation("a result of any shape", f"{HERE}/theirs.py", "if x.shape != np.shape(wanted := array_of(right, name)):", "if (wanted := array_of(right, name)) is None:", f"{PARTS}::test_a_result_is_judged[<lambda>-returns the shape (4,) for (3, 4)]"),
    Mutation("the gradients of the sum of losses", f"{HERE}/values.py", "x[0] / len(targets) for name, x in of_sum.items()", "x[0] for name, x in of_sum.items()", f"{PARTS}::test_the_gradients_are_those_of_the_mean"),
    Mutation("clipping by the norm of one parameter", f"{HERE}/values.py", "norm = np.sqrt((norms**2).sum())", "norm = norms.max()", f"{PARTS}::test_what_follows_from_the_numbers_of_a_model"),
    Mutation("the chances after the first token", f"{HERE}/values.py", 'scaled = trace.values["logits"][-1] / 0.8', 'scaled = trace.values["logits"][0] / 0.8', f"{PARTS}::test_what_follows_from_the_numbers_of_a_model"),
]  # fmt: skip
