"""Mutations of what `jaxllm learn train` does."""

from slips.mutation import Mutation

PARTS = "learn/test_train_parts.py"
HERE = "train/learn/training"
ENDED = f"{PARTS}::test_what_ended_a_training_is_named_and_a_change_during_it"
WRITTEN = f"{PARTS}::test_text_is_written_by_their_functions"
BACK = f"{PARTS}::test_a_function_that_is_called_back_has_its_value_and_gradients"

MUTATIONS = [
    Mutation("the folder of the course as the run", "train/commands/learn_train.py", "train_pieces(arguments.dir, arguments.out,", "train_pieces(arguments.dir, arguments.dir,", f"{PARTS}::test_the_command_gives_its_options"),
    Mutation("the NaN instead of the error that made it", "train/commands/learn_training.py", "            bridge.watch.check()  # what ended the run, if an error of theirs did\n", "", ENDED),
    Mutation("a piece that changes while it trains", "train/commands/learn_training.py", "check_unchanged(folder, chosen.used,", "check_unchanged(folder, {},", ENDED),
    Mutation("a block only where it is whole", f"{HERE}/bridge.py", "any(name in self.pieces for name in IN_BLOCK)", '"block" in self.pieces', f"{PARTS}::test_a_config_names_what_is_used[pieces0-fields0]"),
    Mutation("our model where theirs is right", f"{HERE}/bridge.py", 'type(module) is GPT and "gpt" in self.pieces', 'type(module) is GPT and "model" in self.pieces', f"{PARTS}::test_a_model_of_theirs_is_put_in_the_place_of_ours"),
    Mutation("our embedding where theirs is right", f"{HERE}/bridge.py", 'isinstance(module, TokenEmbedding) and "token_embedding" in', 'isinstance(module, TokenEmbedding) and "tokens" in', f"{PARTS}::test_an_embedding_of_theirs_is_put_in_the_place_of_ours"),
    Mutation("a learner's arrays in float32", f"{HERE}/callbacks.py", "np.array(x, np.float64 if", "np.array(x, np.float32 if", BACK),
    Mutation("the gradient of a sum, whatever follows", f"{HERE}/callbacks.py", "function.vjp(*arguments)[1](np.asarray(cotangent, np.float64))", "function.vjp(*arguments)[1](np.ones_like(cotangent, np.float64))", BACK),
    Mutation("the last error of many", f"{HERE}/callbacks.py", "self.error = self.error or (", "self.error = (", f"{PARTS}::test_the_first_error_is_kept"),
    Mutation("numbers that are not finite passed on", f"{HERE}/callbacks.py", "if not np.isfinite(result).all() and", "if np.isinf(result).any() and", f"{PARTS}::test_what_a_function_does_wrong_is_kept_and_its_result_is_nan[<lambda>-your squares: squares returned a non-finite number]"),
    Mutation("smaller pieces before larger ones", f"{HERE}/chosen.py", "for name in reversed(ORDER):", "for name in ORDER:", f"{PARTS}::test_the_largest_pieces_decide"),
    Mutation("a piece within one of its callers", f"{HERE}/chosen.py", "return bool(callers) and all(", "return bool(callers) and any(", f"{PARTS}::test_the_largest_pieces_decide"),
    Mutation("values without their gradients", f"{HERE}/chosen.py", "return value, pullback(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))", "return value", f"{PARTS}::test_a_piece_without_the_gradient_does_not_agree"),
    Mutation("what a piece imports left out of its digest", f"{HERE}/loading.py", "for one in [*folder.needed(name), name]:\n        folder.require(one)", "for one in [name]:\n        folder.require(one)", f"{PARTS}::test_a_change_of_what_a_piece_imports_is_a_change"),
    Mutation("pieces of the folder before", f"{HERE}/loading.py", 'sys.modules.pop(file_name(name).removesuffix(".py"), None)', "sys.modules.pop(file_name(name), None)", f"{PARTS}::test_pieces_are_those_of_the_last_folder"),
    Mutation("our lines in an error of theirs", f"{HERE}/loading.py", " if Path(frame.filename).parent == where]", "]", f"{PARTS}::test_an_error_shows_their_lines_only"),
    Mutation("biases that decay", f"{HERE}/optimizer.py", "config.weight_decay if p.ndim >= 2 else 0.0", "config.weight_decay if p.ndim >= 1 else 0.0", f"{PARTS}::test_their_update_is_ours_and_decays_matrices_only"),
    Mutation("each update as the second", f"{HERE}/optimizer.py", "count, rate = flatten_dict(params, sep=\"/\"), state.updates + 1,", "count, rate = flatten_dict(params, sep=\"/\"), state.updates + 2,", f"{PARTS}::test_their_update_is_ours_and_decays_matrices_only"),
    Mutation("an update of any shape", f"{HERE}/optimizer.py", "if found.shape != like.shape:", "if found.size == 0:", f"{PARTS}::test_an_update_of_the_wrong_shape_is_named", "Incorrect output shape"),
    Mutation("the time of a small model", f"{HERE}/pace.py", "like.dtype)) * RATIO", "like.dtype))", f"{PARTS}::test_a_call_is_measured_in_a_smaller_model"),
    Mutation("our attention in their model", f"{HERE}/parts.py", "merged = attention.merge_heads(self.causal_attention(q, k, v))", "merged = attention.merge_heads(Parts({}).causal_attention(q, k, v))", f"{PARTS}::test_our_parts_are_the_model_and_call_theirs"),
    Mutation("a block without its second norm", f"{HERE}/parts.py", "return x + self.mlp(params[\"mlp\"], normed)", "return x + self.mlp(params[\"mlp\"], x)", f"{PARTS}::test_our_parts_are_the_model_and_call_theirs"),
    Mutation("a file of the user's lost", f"{HERE}/tie.py", "return isinstance(parsed, dict) and written in", "return isinstance(parsed, dict) or written in", f"{PARTS}::test_only_what_was_written_here_is_overwritten"),
    Mutation("a field that their pieces decide", f"{HERE}/training.py", "if key in fields.get(section, {}) or (", "if (", f"{PARTS}::test_a_config_is_theirs_where_their_pieces_decide"),
    Mutation("a block named beside the whole model", f"{HERE}/training.py", 'name not in ("block", "layer_norm")]', 'name != "layer_norm"]', f"{PARTS}::test_a_whole_model_hides_its_parts"),
    Mutation("rows that fill the context", f"{HERE}/trials.py", "np.random.default_rng(0), config.context_length - 1, config.d_model", "np.random.default_rng(0), config.context_length, config.d_model", f"{PARTS}::test_a_trial_does_not_fill_the_context_and_hides_later_positions"),
    Mutation("the padding continued", f"{HERE}/writing.py", "[0, len(seen) - 1, :", "[0, -1, :", WRITTEN),
    Mutation("an id that no token has", f"{HERE}/writing.py", "if not 0 <= token < tokenizer.vocab_size:", "if token < 0:", WRITTEN),
    Mutation("windows without their last target", f"{HERE}/writing.py", "np.concatenate([inputs, targets[:, -1:]], axis=1)", "inputs", f"{PARTS}::test_a_batch_is_made_by_their_pairs_row_by_row"),
]  # fmt: skip
