"""Mutations of a training run: its step, its files, its output, and the process around it."""

from slips.mutation import Mutation

OPTIMIZER = "training/test_step.py::test_the_optimizer_agrees_with_its_twin"
STEPS = "training/test_step.py::test_steps_agree_with_the_reference[xla]"
SCHEDULE_FREE = "training/test_nonfinite.py::test_a_step_left_out_counts_for_the_weights_of_schedule_free"
CHOOSING = "training/test_choosing_products.py"
NOT_FINITE = "training/test_nonfinite.py::test_such_a_step_is_counted_and_changes_nothing_else"
LIMIT = "training/test_budget.py::test_a_run_ends_with_its_time_and_the_end_of_its_schedule"
IDEAS = "training/test_ideas.py"
STEP = "train/step.py"
OPTIMIZER_FILE = "train/optimizer.py"


def rule(name: str) -> str:
    return (
        f"commands/test_configs.py::test_rules_of_two_fields_hold_up_to_their_limit_and_not_the_other_way_round[{name}]"
    )


MUTATIONS = [
    Mutation("equal names of different files are equal functions", "jaxllm/utils/ideas.py", "(self.name, self.digest) if", "(self.name,) if", f"{IDEAS}::test_a_config_keeps_names"),
    Mutation("a config alone makes code of the current folder run", "train/ideas.py", "    if code is None:\n        for", "    code = code or (load_code(str(found[0][2]).partition(':')[0]) if found else None)\n    if code is None:\n        for", f"{IDEAS}::test_a_run_alone_never_runs_code"),
    Mutation("a run's code not compared with its copy", "train/ideas.py", "    if before == now:", "    if True:", f"{IDEAS}::test_another_file_is_refused_by_its_first_different_line"),
    Mutation("a metric that takes a name of ours", "train/ideas_check.py", "name in RECORDED or not", "not", f"{IDEAS}::test_a_wrong_function_gets_its_sentence[train.metrics=w.py:taken]"),
    Mutation("a function that is not pure", "train/ideas_check.py", "    _check_pure(idea, arguments)\n    function, floats", "    function, floats", f"{IDEAS}::test_a_wrong_function_gets_its_sentence[model.activation=w.py:impure]"),
    Mutation("a library that is hardly faster is chosen", "train/products.py", "GAIN = 0.95", "GAIN = 1.0", f"{CHOOSING}::test_the_fastest_is_chosen"),
    Mutation("a library with one right product of three is chosen", "train/products.py", "not all(error <=", "not any(error <=", f"{CHOOSING}::test_one_that_computes_wrong_is_left_out"),
    Mutation("a choice is measured each time", "train/products.py", "replace_file(kept, msgspec.json.encode(choice))", "pass", f"{CHOOSING}::test_the_choice_is_kept"),
    Mutation("compiled code in another user's folder", "jaxllm/utils/private_folder.py", "found.st_uid != os.geteuid()", "found.st_uid < 0", "training/test_compile_cache.py::test_another_users_folder_is_refused"),
    Mutation("the width scales updates of tables too", OPTIMIZER_FILE, "_is_of_blocks(directions)", "_is_matrix(directions)", "model/test_width.py::test_updates_of_blocks_shrink_with_the_width_and_their_decay_does_not"),
    Mutation("the width scales Muon as AdamW", OPTIMIZER_FILE, 'if config.name == "muon" else width_ratio', 'if config.name == "" else width_ratio', "training/test_optimizers.py::test_a_step_in_a_wider_model_agrees_with_its_twin[muon]"),
    Mutation("runs of a sweep with the learning rate of any width", "train/together.py", "step = step_function(model, optimizer,", "optimizer = make_optimizer(own.optimizer, config.train.steps)\n        step = step_function(model, optimizer,", "commands/test_sweep.py::test_runs_that_differ_in_their_seed_are_close_to_a_run_alone"),
    Mutation("sign of weight decay", OPTIMIZER_FILE, "add_decayed_weights(config.weight_decay", "add_decayed_weights(-config.weight_decay", OPTIMIZER),
    Mutation("decay of vectors too", OPTIMIZER_FILE, "p.ndim >= 2", "p.ndim >= 1", OPTIMIZER),
    Mutation("betas swapped", OPTIMIZER_FILE, "scale_by_adam(config.beta1, config.beta2)", "scale_by_adam(config.beta2, config.beta1)", OPTIMIZER),
    Mutation("Adam's epsilon 1e-6", OPTIMIZER_FILE, "scale_by_adam(config.beta1, config.beta2)", "scale_by_adam(config.beta1, config.beta2, eps=1e-6)", OPTIMIZER),
    Mutation("bias correction dropped", OPTIMIZER_FILE, "    return optax.chain(optax.clip", "    optax.tree.bias_correction = lambda moment, decay, count: moment\n    return optax.chain(optax.clip", OPTIMIZER),
    Mutation("no clipping", OPTIMIZER_FILE, "optax.clip_by_global_norm(config.clip_norm)", "optax.identity()", OPTIMIZER),
    Mutation("clipping of each number, not of the norm", OPTIMIZER_FILE, "optax.clip_by_global_norm(config.clip_norm)", "optax.clip(config.clip_norm)", OPTIMIZER),
    Mutation("warm-up from 0", OPTIMIZER_FILE, "config.learning_rate * (now + 1)", "config.learning_rate * now", OPTIMIZER),
    Mutation("cosine down to 0", OPTIMIZER_FILE, "lowest + (highest - lowest)", "(highest - lowest)", OPTIMIZER),
    Mutation("only the last micro-batch counts", STEP, "return jax.tree.map(jnp.add, total, jax.value_and_grad(loss_fn)(state.params, *microbatch)), None", "return jax.value_and_grad(loss_fn)(state.params, *microbatch), None", STEPS),
    Mutation("gradient divided by windows, not tokens", STEP, "n_tokens, n, once = targets.size,", "n_tokens, n, once = len(targets),", STEPS),
    Mutation("norm of the update reported as the gradient's", STEP, "optax.tree.norm(grads)", "optax.tree.norm(state.params)", STEPS),
    Mutation("steps not counted", STEP, "TrainState(state.step + 1,", "TrainState(state.step,", STEPS),
    Mutation("sha256 of a checkpoint's files not compared", "train/runs/manifest.py", 'return "" if digest == stored.sha256 else', 'return "" if digest else', "training/test_checkpoint.py::test_a_flipped_bit_anywhere_is_noticed_and_named"),
    Mutation("sha256 of the manifest itself not compared", "train/runs/manifest.py", "if _encode(manifest) != raw:", "if False:", "training/test_checkpoint.py::test_a_flipped_bit_anywhere_is_noticed_and_named"),
    Mutation("arrays read not compared", "train/runs/manifest.py", "if read.get(name) != manifest.arrays.get(name):", "if False:", "training/test_checkpoint.py::test_an_array_that_is_read_as_another_is_noticed"),
    Mutation("a manifest may lead outside", "train/runs/manifest.py", 'or ".." in PurePosixPath(name).parts', "", "training/test_checkpoint.py::test_a_manifest_of_another_step_or_that_leads_outside_is_refused"),
    Mutation("the best checkpoint goes with the old", "train/runs/checkpoint.py", " - set(best)", "", "training/test_checkpoint.py::test_the_newest_stay_and_the_best"),
    Mutation("of equal losses the older is the best", "train/runs/checkpoint.py", "return min(losses, key=lambda step: (losses[step], -step), default=None)", "return min(losses, key=lambda step: losses[step], default=None)", "training/test_checkpoint.py::test_of_equal_losses_the_newer_is_the_best"),
    Mutation("the table of n-grams by Muon", OPTIMIZER_FILE, '"token_embedding", "ngram_embedding", ', '"token_embedding", ', "training/test_optimizers.py::test_a_step_agrees_with_its_twin[muon]", "ngram_embedding"),
    Mutation("a step that is not finite applied", "train/nonfinite.py", "jnp.where(finite, n, o)", "jnp.where(True, n, o)", f"{NOT_FINITE}[both]"),
    Mutation("a step that is not finite not counted by the schedule", "train/nonfinite.py", "            return n\n", "            return o\n", f"{NOT_FINITE}[both]"),
    Mutation("the last part that is not finite, not the first", "train/nonfinite.py", "wrong.argmax()", "len(wrong) - 1 - wrong[::-1].argmax()", "training/test_nonfinite.py::test_the_first_part_backward_is_found[nan]"),
    Mutation("all seeds of a sweep draw the same batches", "train/together.py", "zip(*(batch_of(member.run, step) for member in members), strict=True)", "zip(*(batch_of(members[0].run, step) for member in members), strict=True)", "commands/test_sweep.py::test_runs_that_differ_in_their_seed_are_close_to_a_run_alone"),
    Mutation("the first run's numbers in the optimizer's state of each", "train/together.py", "jax.tree.map(lambda x, i=i: x[i], numbers)", "jax.tree.map(lambda x: x[0], numbers)", "commands/test_sweep.py::test_numbers_that_an_optimizer_keeps_in_its_state_are_those_of_the_run"),
    Mutation("a baseline without functions refused", "train/commands/sweep.py", "code_of(configs[i], code) if used else code", "code", "commands/test_sweep.py::test_an_idea_is_swept_against_its_baseline"),
    Mutation("a learning rate of a sweep left a constant", "train/together.py", "SimpleNamespace(**vars(getattr(config, name)) | own)", "SimpleNamespace(**own | vars(getattr(config, name)))", "commands/test_sweep.py::test_runs_that_differ_in_other_numbers_are_close_to_a_run_alone"),
    Mutation("one run that diverges ends all", "train/together.py", "all(run.error for run in all_runs)", "any(run.error for run in all_runs)", "commands/test_sweep.py::test_a_run_that_diverges_ends_alone"),
    Mutation("a complete run of a sweep trained again", "train/commands/sweep.py", 'complete and "val_loss" in records[-1]', "False", "commands/test_sweep.py::test_a_complete_sweep_only_shows_its_table", "not callable"),
    Mutation("values of a sweep that are equal kept", "train/sweep.py", "if value in found[:i]:", "if False:", "commands/test_sweep.py::test_wrong_input_is_found_before_anything_is_trained[train.seed=0,1,0-train.seed the value 0 twice]", "not callable"),
    Mutation("a signal ignored", "train/loop.py", "ending = bool(stop)", "ending = False", "training/test_resume.py::test_a_run_ended_by_signals_goes_on_to_the_same_bits[float32-(7,)]"),
    Mutation("metrics beyond the checkpoint kept", "train/runs/metrics.py", 'if record["step"] <= last_step]', "]", "training/test_train.py::test_an_interrupted_run_resumes_to_the_same_result"),
    Mutation("a gradient alone that is not finite", STEP, "jnp.isfinite(loss) & jnp.isfinite(grad_norm)", "jnp.isfinite(loss)", f"{NOT_FINITE}[gradient]"),
    Mutation("a loss alone that is not finite", STEP, "jnp.isfinite(loss) & jnp.isfinite(grad_norm)", "jnp.isfinite(grad_norm)", f"{NOT_FINITE}[loss]"),
    Mutation("lines of metrics not flushed", "train/runs/metrics.py", "            self._file.flush()", "            pass", "training/test_step_log.py::test_each_line_of_metrics_is_in_the_file_as_soon_as_it_is_written"),
    Mutation("lines of a run not flushed", "train/progress.py", "print(record_line(record), flush=True)", "print(record_line(record))", "training/test_step_log.py::test_lines_of_a_run_are_flushed"),
    Mutation("an evaluation's time in the next step's", "train/runs/step_log.py", "time.perf_counter() if measured else now", "now", "training/test_step_log.py::test_the_speed_of_a_step_is_of_its_own_time"),
    Mutation("a resumed run's seconds from 0", "train/runs/step_log.py", 'self._file.records[-1]["elapsed_s"] if self._file.records else 0.0', "0.0", "training/test_step_log.py::test_a_resumed_run_counts_on"),
    Mutation("the two names in the rule of keep_best swapped", "train/config.py", "self.checkpoint.every % self.eval.every", "self.eval.every % self.checkpoint.every", rule("checkpoint.keep_best"), "InputError: checkpoint.keep_best is 1"),
    Mutation("warm-up up to the last step", "train/config.py", "self.optimizer.warmup_steps >= self.train.steps", "self.optimizer.warmup_steps > self.train.steps", rule("optimizer.warmup_steps")),
    Mutation("evaluation at the whole batch", "train/evaluate.py", "config.train.batch_size // config.train.grad_accumulation", "config.train.batch_size", "training/test_evaluate.py::test_a_batch_is_no_larger_than_a_microbatch[6-3-2]"),
    Mutation("the first token is a target", "train/evaluate.py", "for i in range(len(ids) - n, len(ids), CHUNK)", "for i in range(0, len(ids), CHUNK)", "training/test_evaluate.py::test_bits_are_of_the_bytes_behind_the_targets"),
    Mutation("batches not prepared ahead", "train/prefetch.py", "islice(rest, AHEAD + 1 - len(ahead))", "islice(rest, 1)", "training/test_prefetch.py::test_it_prepares_ahead_but_not_all"),
    Mutation("a file taken for a run's folder", "train/runs/folder.py", "if self.path.exists() and not self.path.is_dir():", "if False:", "commands/test_cli.py::test_wrong_commands[train ok.toml --out text.txt]"),
    Mutation("a run that fits exactly warns", "train/memory_estimate.py", "need.total <= available:", "need.total < available:", "training/test_memory.py::test_no_warning_where_it_fits_or_nothing_is_known"),
    Mutation("a parent cgroup's limit ignored", "train/runtime/memory.py", "for folder in (group, *group.parents):", "for folder in (group,):", "training/test_memory.py::test_what_is_free_on_a_cpu[limit-above]"),
    Mutation("the time to the last begun, not the last ended", "train/runtime/profile.py", "total = max((s.end for s in spans), default=0.0)", "total = (spans[-1].end if spans else 0.0)", "training/test_profile.py::test_the_time_is_that_to_the_last_end"),
    Mutation("a span of no length runs to the end", "train/runtime/profile.py", "enumerate(spans) if s.end > s.begin]", "enumerate(spans)]", "training/test_profile.py::test_operations_of_no_length_have_no_time"),
    Mutation("an ignored signal ends the run", "train/runtime/signals.py", "for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]", "for number in HANDLED]", "training/test_resume.py::test_a_signal_that_was_ignored_stays_ignored[SIGINT]"),
    Mutation("the wake-up of others forgotten", "train/runtime/signals.py", "signal.set_wakeup_fd(wakeup)", "signal.set_wakeup_fd(-1)", "training/test_resume.py::test_after_a_run_signals_do_what_they_did_before", "BlockingIOError"),
    Mutation("a checkpoint with the loss of another step", "train/loop.py", 'log.last.get("val_loss"))', 'next((r["val_loss"] for r in reversed(log._file.records) if "val_loss" in r), None))', "training/test_train.py::test_a_checkpoint_has_the_loss_of_its_own_step"),
    Mutation("an error's text over lines", "train/errors.py", 'printable(" ".join(text.split()))', "printable(text)", "training/test_arrays.py::test_an_error_is_one_line"),
    Mutation("arrays by the last name of their path", "train/runs/arrays.py", 'jax.tree_util.keystr(path, simple=True, separator="/")', "jax.tree_util.keystr(path[-1:], simple=True)", "training/test_arrays.py::test_arrays_are_named_by_their_path"),
    Mutation("a text that has changed trained on", "train/inputs.py", "if (expected and expected != digest)", "if (False)", "commands/test_cli.py::test_wrong_settings[data.sha256=00]"),
    Mutation("weights narrowed that lose by it", "train/runs/imported_weights.py", "if np.array_equal(narrow.astype(x.dtype), x):", "if True:", "commands/test_writer.py::test_weights_come_back"),
    Mutation("parameters alone not read alone", "train/runs/checkpoint.py", "like._asdict().items() if tree is not None", "like._asdict().items()", "training/test_checkpoint.py::test_the_parameters_are_read_without_the_optimizer", "InputError"),
    Mutation("a number where a text stands", "train/config.py", '(str in kinds and type(parsed["value"]) not in kinds)', "False", "commands/test_configs.py::test_a_text_field_takes_any_text_as_it_is[data.source-2024]"),
    Mutation("the seed of the config ignored", "train/state.py", "result()(config.seed)", "result()(0)", "training/test_step.py::test_init_and_compile_gives_the_same_state_and_step"),
    Mutation("a key for dropout where nothing is dropped", STEP, "dropout_key(config.seed) if model.config.dropout else None", "dropout_key(config.seed)", "training/test_loop.py::test_a_new_run_compiles_its_two_programs_and_two_checks"),
    Mutation("the name of the optimizer ignored", OPTIMIZER_FILE, "rule = named(config.name, OPTIMIZERS, \"optimizer.name\")", "rule = adamw", "training/test_step.py::test_the_config_selects_the_optimizer_by_name"),
    Mutation("a running mean that begins at 0", "train/runs/loss_plot.py", "out.append(total / norm)", "out.append(total)", "training/test_step_log.py::test_the_running_mean_begins_at_the_first_value"),
    Mutation("AdamW's moments for any optimizer", "train/memory_estimate.py", "return _bytes(params), _bytes(state)", "return _bytes(params), 2 * _bytes(params)", "training/test_memory.py::test_an_optimizer_may_look_at_names_and_dimensions"),
    Mutation("the raw weights for the averaged ones", "train/eval_weights.py", "return optax.contrib.schedule_free_eval_params(averaged, state.params)", "return state.params", "training/test_optimizers.py::test_averaged_weights_are_evaluated"),
    Mutation("Muon's directions of one shape handed out in another order", OPTIMIZER_FILE, "zip(places, direction, strict=True)", "zip(places[::-1], direction, strict=True)", "training/test_optimizers.py::test_a_step_agrees_with_its_twin[muon]"),
    Mutation("Muon's matrices made orthogonal one by one", OPTIMIZER_FILE, "setdefault(leaf.shape, [])", "setdefault((i,), [])", "training/test_optimizers.py::test_muons_products_are_computed_once"),
    Mutation("a step weighed by the next one's rate", OPTIMIZER_FILE, "lambda count: schedule(count - 1)", "schedule", SCHEDULE_FREE),
    Mutation("a step left out not counted by its weights", "train/nonfinite.py", "return kept._replace(step_count=n.step_count)", "return kept", SCHEDULE_FREE),
    Mutation("decay not multiplied by the rate", OPTIMIZER_FILE, """        direction,
        optax.add_decayed_weights(config.weight_decay, mask=_is_matrix),
        optax.scale_by_learning_rate(schedule),
""", """        direction,
        optax.scale_by_learning_rate(schedule),
        optax.add_decayed_weights(config.weight_decay, mask=_is_matrix),
""", "training/test_optimizers.py::test_a_step_agrees_with_its_twin[adafactor]"),
    Mutation("the schedule's rest over all of the time", "train/budget.py", "max(train.seconds - warmed_up_s, 1e-9)", "max(train.seconds, 1e-9)", "training/test_budget.py::test_the_warm_up_takes_its_steps_and_the_rest_of_the_schedule_the_rest_of_the_time"),
    Mutation("a run without an end of its time", "train/budget.py", "seconds >= config.seconds)", "seconds < 0)", "training/test_budget.py::test_a_run_is_over_by_steps_or_by_seconds"),
    Mutation("the step not told that its schedule is ahead", "train/budget.py", "schedule(step + ahead)", "schedule(step)", LIMIT),
    Mutation("a resumed run with all its time again", "train/runs/step_log.py", "self._trained = used_s(self._file.records)", "self._trained = 0.0", LIMIT),
    Mutation("steps sent to a tracker twice", "train/runs/sinks.py", 'if record["step"] > self._written or', 'if record["step"] > 0 or', "training/test_sinks.py::test_a_tracker_finds_a_resumed_run_again_and_gets_each_step_once[wandb]"),
    Mutation("runs of a tracker that takes one at a time trained together", "train/commands/sweep.py", " or of.sink in ONE_AT_A_TIME", "", "training/test_sinks.py::test_a_sweep_trains_runs_together_unless_a_tracker_takes_one_at_a_time"),
    Mutation("a run at a tracker ended by the next of a sweep", "train/runs/sinks.py", ', "reinit": "create_new"', "", "training/test_sinks.py::test_a_tracker_finds_a_resumed_run_again_and_gets_each_step_once[wandb]"),
    Mutation("a sink that fails ends the run", "train/runs/sinks.py", "except Exception as error:", "except ValueError as error:", "training/test_sinks.py::test_a_sink_that_fails_is_left_out_and_the_run_goes_on[wandb]"),
    Mutation("a loop's last step before a signal not saved", "train/training.py", "if self._ending or self._step % ", "if self._step % ", "training/test_training.py::test_a_signal_ends_the_loop_after_its_step_which_is_saved"),
    Mutation("a loop's step that is not finite applied", "train/training.py", "finite = jnp.isfinite(loss) & ~wrong.any()", "finite = jnp.isfinite(loss) | True", "training/test_training.py::test_a_step_that_is_not_finite_is_not_applied_and_named"),
]  # fmt: skip
