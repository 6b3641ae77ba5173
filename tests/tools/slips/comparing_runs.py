"""Mutations of the comparison of two runs, and of references that are recorded, in float32, or without gradients."""

from slips.mutation import Mutation

RUNS, PAIRS, PARTING = "commands/test_compare_runs.py", "compare/test_pairs.py", "training/test_parting.py"
RECORDED, CALLS = "compare/test_recorded.py", "compare/test_calls.py"
FEW, FUNCTION = "jaxllm/compare/few_digits.py", "jaxllm/compare/function.py"

MUTATIONS = [
    Mutation("parameters of other shapes compared by none", "jaxllm/compare/pairs.py", "elif np.shape(ours[name]) != np.shape(theirs[name]):", "elif False:", f"{PAIRS}::test_models_of_other_shapes_are_compared_in_what_both_have"),
    Mutation("the values of one model twice", "jaxllm/compare/pairs.py", "measure(stage, name, theirs[name], ours[name]", "measure(stage, name, ours[name], ours[name]", f"{PAIRS}::test_a_change_is_found_where_it_is_and_in_all_that_follows", "ValueError"),
    Mutation("a key's bias on its own scale", "jaxllm/compare/pairs.py", 'if not name.endswith("key/bias"):', "if True:", f"{PAIRS}::test_a_keys_bias_is_measured_with_its_kernel"),
    Mutation("times compared", "train/runs/parting.py", "if name in theirs and name not in TIMES", "if name in theirs", f"{PARTING}::test_equal_metrics_agree_whatever_their_times"),
    Mutation("an absolute tolerance of metrics", "train/runs/parting.py", "tolerance * max(abs(ours), abs(theirs))", "tolerance", f"{PARTING}::test_a_tolerance_is_relative"),
    Mutation("a step left out by one run alone unnoticed", "train/runs/parting.py", "return math.inf  # null", "return 0.0  # null", f"{PARTING}::test_a_step_that_one_run_left_out_parts_at_any_tolerance", "TypeError"),
    Mutation("the schedule blamed for a wrong gradient", "train/runs/parting.py", 'if names & {"grad_norm"}:', "if False:", f"{PARTING}::test_what_the_fields_say_of_the_cause[changes2-the loss agrees and its gradient does not: look at the backward pass]"),
    Mutation("the oldest step that both have", "train/commands/compare_places.py", "step = max(common)", "step = min(common)", f"{RUNS}::test_the_newest_step_that_both_have"),
    Mutation("a colon in a name taken for a step", "train/commands/compare_places.py", "if colon and not Path(text).is_dir() and", "if colon and", f"{RUNS}::test_a_step_is_told_from_a_name_with_a_colon"),
    Mutation("one run read twice", "train/commands/compare_runs.py", "runs = [_opened(place, code) for place in places]", "runs = [_opened(places[0], code) for _ in places]", f"{RUNS}::test_two_checkpoints_of_a_run"),
    Mutation("other tokens compared by their numbers", "train/commands/compare_runs.py", "runs[0].tokenizer.fingerprint() == runs[1].tokenizer.fingerprint()", "True", f"{RUNS}::test_another_tokenizer"),
    Mutation("runs that part for those that agree", "train/commands/compare_runs_report.py", "return weights and (self.parting is None or self.parting.step is None)", "return weights", f"{RUNS}::test_the_first_step_where_the_metrics_part"),
    Mutation("numbers blamed that an argument gave", FEW, "+ 1e-3 * size(x) * rng.normal(size=np.shape(x))", "", f"{RECORDED}::test_an_exact_reference_of_float32_numbers_is_not_blamed"),
    Mutation("float32 blamed for any error", FEW, "if row.failed and row.relative <= EXPLAINS[dtype]", "if row.failed", f"{RECORDED}::test_no_other_failure_is_blamed_on_float32[<lambda>1]"),
    Mutation("whole numbers taken for rounded ones", FEW, "np.array_equal(y, np.round(y), equal_nan=True)", "False", f"{RECORDED}::test_the_digits_of_results[results5-None]"),
    Mutation("a gradient where values alone are asked for", FUNCTION, "    if differentiate:", "    if True:", f"{RECORDED}::test_values_alone", "ValueError: Reverse-mode differentiation"),
    Mutation("results that were not recorded left out", FUNCTION, 'for name, y in ours.items() if name not in theirs}, "not recorded"', 'for name, y in ours.items() if False}, "not recorded"', f"{RECORDED}::test_what_was_not_recorded_is_held_to_nothing"),
    Mutation("a dataclass initialised again", "jaxllm/compare/calls.py", "out = copy.copy(original)", "out = type(original)(now[fields(original)[0].name])", f"{CALLS}::test_arguments_that_are_dataclasses_unknown_to_jax[float64]"),
    Mutation("the names that are in a file not said", "jaxllm/compare/recorded.py", "listed(arrays, 40) or 'none'", "len(arrays)", f"{RECORDED}::test_names_that_fit_nothing_are_answered_with_those_there_are"),
    Mutation("the text beside tensors lost", "jaxllm/compare/array_file.py", 'header.metadata.get(ABOUT, "")', '""', "compare/test_foreign_traces.py::test_a_safetensors_file_is_read_alike"),
    Mutation("safetensors of any name", "jaxllm/compare/array_file.py", 'if Path(path).suffix != ".safetensors":', "if False:", "compare/test_foreign_traces.py::test_files_that_are_no_recordings[a text-is neither an .npz nor a .safetensors file]"),
]  # fmt: skip
