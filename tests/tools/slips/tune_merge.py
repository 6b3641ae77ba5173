"""Mutations of merging and exporting a tuning, of classifying with it, and of its bench."""

from slips.mutation import Mutation

PROOF, PROVEN = "train/tune/merge.py", "tune/test_merge_proof.py"
ADAPTERS, VERIFIED = "tune/test_adapter_commands.py", "commands/test_export_verify.py"
WRITTEN, VERIFY = "train/commands/export_adapter.py", "train/commands/export_verify.py"

MUTATIONS = [
    Mutation("a merge that is not the adapter's model", PROOF, "if not self.difference <= MOST_DIFFERENCE:", "if self.difference > 1:", f"{PROVEN}::test_a_merge_of_other_matrices_is_refused"),
    Mutation("NaN within every bound", PROOF, "if not self.lost <= MOST_LOST:", "if self.lost > MOST_LOST:", f"{PROVEN}::test_nan_is_beyond_every_bound", "DID NOT RAISE"),
    Mutation("the loss of a dtype relative to the logits", PROOF, "change = rms(exact - base)", "change = rms(exact)", f"{PROVEN}::test_the_share_that_is_lost"),
    Mutation("an adapter that changes nothing", PROOF, "if change == 0:", "if change < 0:", f"{PROVEN}::test_an_adapter_that_changes_nothing_is_refused", "ZeroDivisionError"),
    Mutation("an adapter of NaN", PROOF, '("the adapter of ", (leaf.a, leaf.b))', '("the adapter of ", ())', f"{PROVEN}::test_numbers_that_are_not_finite_are_refused", "Regex pattern did not match"),
    Mutation("the proof in float32", PROOF, 'with arithmetic("float64"):', 'with arithmetic("float32"):', f"{PROVEN}::test_a_merge_is_proven[float32]"),
    Mutation("all positions count", PROOF, "np.asarray(_logits(config, params, tokens))[counted]", "np.asarray(_logits(config, params, tokens))", f"{PROVEN}::test_positions_that_count"),
    Mutation("a row without its last learned position", "train/tune/merge_rows.py", "end = int(places[-1]) + 1", "end = int(places[-1])", f"{ADAPTERS}::test_the_first_rows_that_fit", "too many values to unpack"),
    Mutation("a longer row without its end", "train/tune/merge_rows.py", "start = max(0, end - most)", "start = 0", f"{ADAPTERS}::test_the_first_rows_that_fit"),
    Mutation("a merge proven by what is in memory", "train/commands/merge.py", "read_weights(folder.weights, config), rows", "rounded_to(merge(tuned.params), a.dtype), rows", f"{ADAPTERS}::test_the_proof_reads_what_was_written"),
    Mutation("a merge that stays although it is refused", "train/commands/merge.py", "        proof.check(a.dtype)\n", "    proof.check(a.dtype)\n", f"{ADAPTERS}::test_what_a_coarse_dtype_loses_is_not_written"),
    Mutation("an export that stays although it differs", VERIFY, "if not difference <= bound:", "if difference > 1e9:", f"{VERIFIED}::test_a_folder_of_other_weights_is_not_left[change_a_little- 7.6e-03 of]"),
    Mutation("logits of another shape compared", VERIFY, "theirs.shape != ours.shape or ", "", f"{VERIFIED}::test_differences_are_relative_to_ours"),
    Mutation("tokens at which others attend further", VERIFY, "-1 if (s := config.separator) is None else s", "-1", f"{VERIFIED}::test_tokens_of_one_document"),
    Mutation("a bound that a small adapter is within", WRITTEN, "bound = min(BOUND, MOST_LOST * change)", "bound = BOUND", f"{ADAPTERS}::test_a_reader_that_leaves_the_adapters_out_is_noticed", "DID NOT RAISE"),
    Mutation("a base in int8 without its scale", WRITTEN, "np.asarray(base.weights, np.float32) * np.asarray(base.scale)", "np.asarray(base.weights, np.float32)", f"{ADAPTERS}::test_the_base_of_an_adapter"),
    Mutation("the label of a text's first token", "train/commands/classify.py", "softmax(logits[0, -1])", "softmax(logits[0, 0])", "tune/test_classify_command.py::test_probabilities_are_those_at_the_last_token"),
    Mutation("all parameters on both sides", "train/bench/job.py", ', "lora": LoraConfig}', "}", "bench/test_bench_tune.py::test_a_job_of_adapters_is_read_back"),
    Mutation("a bench of the whole context", "train/bench/tune.py", '{"context_length": row, ', '{', "bench/test_bench_tune.py::test_a_job_of_adapters_is_read_back"),
]  # fmt: skip
