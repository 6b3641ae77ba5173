"""Mutations of what a run begins from, of which parameters change, and of the commands that train and evaluate it."""

from slips.mutation import Mutation

BASE, BEGINNING, PARTITION, SAMPLE = (f"train/tune/{name}.py" for name in ("base", "beginning", "partition", "sample"))
COMMAND, INPUTS = "train/commands/tune.py", "train/inputs.py"
BASES, PARTS, RUNS = "tune/test_base.py", "tune/test_partition.py", "tune/test_runs.py"
TUNES, WRONG = "tune/test_tune_command.py", "tune/test_wrong_tunings.py"
QUESTION = f"{TUNES}::test_a_sample_answers_what_training_asks"

MUTATIONS = [
    Mutation("a base with other weights taken", BASE, "if sha256 is not None and found != sha256:", "if False:", f"{BASES}::test_other_weights_are_refused", "DID NOT RAISE"),
    Mutation("spare rows counted into the mean", BASE, "mean = rows[:known].mean(0", "mean = rows.mean(0", f"{BASES}::test_spare_rows_are_used_first"),
    Mutation("a fingerprint of values alone", BASE, '{"/".join(path): _in_float32(leaf) for path, leaf in flatten_dict(params).items()}', '{str(i): _in_float32(leaf) for i, leaf in enumerate(jax.tree.leaves(params))}', f"{BASES}::test_the_fingerprint_is_of_names_and_values"),
    Mutation("a base that has moved called no model", BASE, "if init.sha256 and os.path.isabs", "if not init.sha256 and os.path.isabs", f"{RUNS}::test_adapters_need_their_base"),
    Mutation("an adapter of another base taken", BEGINNING, "there.base_sha256 != sha256:", "False:", "tune/test_adapter_of_peft.py::test_an_adapter_of_another_base_is_refused"),
    Mutation("an adapter's values left out", BEGINNING, "params = grown(there.adapter, whole)", "params = state.params", f"{RUNS}::test_a_run_goes_on_from_an_exported_adapter"),
    Mutation("alpha not divided by the rank", "train/tune/config.py", "return self.alpha / self.rank", "return self.alpha", f"{PARTS}::test_adapters_stand_beside_frozen_maps"),
    Mutation("a beta of preferences for answers", "train/tune/config.py", "if self.kind not in kinds and", "if False and", f"{WRONG}::test_wrong_settings[beta of answers]"),
    Mutation("a beta of the config's left out", "train/tune/kinds.py", "objective(config.tune.kind, config.tune.beta)", "objective(config.tune.kind)", "tune/test_measures.py::test_figures_of_preferences"),
    Mutation("a classifier that does not learn", PARTITION, "return path.startswith(ALWAYS) or", "return", f"{PARTS}::test_a_classifier_always_changes"),
    Mutation("adapters without dropout", PARTITION, "self.lora.dropout, key)", "self.lora.dropout, None)", f"{PARTS}::test_dropout_of_adapters_needs_a_key"),
    Mutation("a reference of another precision", "train/tune/referenced.py", "GPT(run.model, config.train.dtype)", 'GPT(run.model, "bfloat16")', f"{RUNS}::test_preferences_begin_at_the_base"),
    Mutation("a question without the begin token", SAMPLE, "return [*Renderer(tokenizer, chat).begin, *", "return [*", f"{QUESTION}[None]"),
    Mutation("a question that tells the answer", SAMPLE, "ids[: begin + 1]", "ids[: begin + 2]", f"{QUESTION}[None]"),
    Mutation("what ends answers forgotten where no chat format is", "train/tune/rendered.py", "or (() if end is None else (end,))", "or ()", f"{RUNS}::test_tokens_that_end_answers"),
    Mutation("epochs of examples, not of rows", COMMAND, "len(inputs.examples.train.rows)", "len(inputs.examples.train.examples)", f"{TUNES}::test_steps_are_counted_in_rows"),
    Mutation("the rate of adapters for all parameters", COMMAND, "else RATES[adapters]", "else RATES[True]", f"{TUNES}::test_rates_and_intervals"),
    Mutation("settings of adapters that are not there", COMMAND, "    check_rank(given, a.overrides)\n", "", f"{WRONG}::test_wrong_settings[no rank]"),
    Mutation("a rank too large noticed when the folder is made", INPUTS, "    if parts := partition_of(config):\n", "    if parts := None:\n", f"{WRONG}::test_wrong_settings[rank]"),
    Mutation("a run of a sweep in rows of the whole context", INPUTS, "config = replace(config, train=replace(config.train, window=self.config.train.window))", "pass", f"{RUNS}::test_a_sweep_over_ranks_and_seeds"),
    Mutation("the training examples evaluated", "train/commands/evaluate_examples.py", 'run.examples.batches("validation", rows)', 'run.examples.batches("train", rows)', f"{RUNS}::test_evaluate_finds_the_last_record"),
    Mutation("an optimizer that begins without the adapter", BEGINNING, "opt_state=optimizer.init(params)", "opt_state=state.opt_state", "tune/test_adapter_of_peft.py::test_the_optimizer_begins_with_the_adapter"),
    Mutation("a run without checkpoints resumed from random weights", "train/commands/train.py", "nothing_saved=not done", "nothing_saved=False", f"{RUNS}::test_a_run_that_is_ended_before_anything_is_saved_begins_again"),
    Mutation("the labels of a classifier numbered anew", INPUTS, "config = replace(config, tune=replace(config.tune, labels=base.labels))", "pass", f"{BASES}::test_the_labels_of_a_base_stay"),
    Mutation("the day of a run not recorded", "train/tune/data.py", "return by_template and", "return False and", f"{BASES}::test_a_run_records_the_day_that_its_template_writes"),
    Mutation("examples written on another day", "train/tune/rendered.py", "render_tracked(messages, add_generation_prompt=False, day=self.day)", "render_tracked(messages, add_generation_prompt=False)", f"{BASES}::test_a_run_records_the_day_that_its_template_writes", "InputError"),
    Mutation("a base's weights kept while training", BEGINNING, "read=once(params, base.read)", "read=lambda: params", f"{BASES}::test_the_weights_of_a_base_are_not_kept"),
    Mutation("added tokens that no text has", BASE, "tokenizer.special_tokens, tokenizer.pattern, tokenizer.normalization,\n        tokenizer.added | more,", "tokenizer.special_tokens | more, tokenizer.pattern, tokenizer.normalization,\n        tokenizer.added,", f"{BASES}::test_added_tokens_are_in_what_is_trained_on"),
    Mutation("packed rows never wider than the longest example", "train/tune/batches.py", "best = width if", "best = best if", "tune/test_tune_batches.py::test_packed_rows_are_wider_where_that_saves_a_tenth"),
]  # fmt: skip
