"""The commands, and the programs that time, draw and print."""

from slips.mutation import Mutation

BACKEND = "commands/test_plotting.py::test_the_environment_may_name_any_backend"

MUTATIONS = [
    Mutation("a reader that went away is a failure", "train/cli.py", "        return 141", "        return 1", "commands/test_cli.py::test_output_that_goes_nowhere"),
    Mutation("a run to go on with that has no name", "train/commands/train.py", "if a.config is None and not (a.resume and a.out):", "if a.config is None and not a.resume:", "commands/test_cli.py::test_wrong_commands[train --resume]"),
    Mutation("moments of one step more", "train/commands/compare.py", "twin.Moments(int(adam.count),", "twin.Moments(int(adam.count) + 1,", "training/test_step.py::test_the_optimizer_agrees_with_its_twin"),
    Mutation("the newest compiled programs go first", "train/runtime/compile_cache.py", "in sorted(files):", "in sorted(files, reverse=True):", "training/test_compile_cache.py::test_the_oldest_go_first"),
    Mutation("documents of the other split", "train/commands/data.py", "index.documents[split]:>12,}", "index.documents['train']:>12,}", "commands/test_tokenizer_commands.py::test_prepare_and_verify"),
    Mutation("a map of what is hidden", "train/commands/attention_plot.py", "np.where(np.tri(length, dtype=bool), weights, np.nan)", "weights", "commands/test_looking_inside.py::test_pictures_show_the_weights_and_the_tokens"),
    Mutation("a page that a token can end", "train/commands/attention_page.py", 'written = json.dumps(data).replace("<", "\\\\u003c")', 'written = json.dumps(data)', "commands/test_looking_inside.py::test_no_token_ends_the_data_of_a_page"),
    Mutation("rights of a temporary folder", "train/outputs.py", "temporary.chmod(0o777 & ~_umask())", "pass", "commands/test_outputs.py::test_a_folder_has_the_rights_that_mkdir_would_give[0o22]"),
    Mutation("the last of equally likely tokens", "train/commands/inspect.py", 'np.argsort(-probabilities, kind="stable")[:n]', "np.argsort(probabilities)[::-1][:n]", "commands/test_looking_inside.py::test_of_equally_likely_tokens_the_first_ids_are_shown"),
    Mutation("a prompt that fills the context refused", "train/commands/prompt.py", "if len(ids) > context:", "if len(ids) >= context:", "commands/test_looking_inside.py::test_a_prompt_may_fill_the_context_and_begin_with_the_id_0", "InputError"),
    Mutation("every checkpoint is the best", "train/commands/checkpoint.py", "'  best' if step == best else ''", "'  best'", "commands/test_checkpoint_commands.py::test_listing_and_verifying"),
    Mutation("a wrong sum found in the first call only", "train/runtime/jax_check.py", "for _ in range(CALLS):", "for _ in range(1):", "training/test_jax_check.py::test_a_number_that_is_wrong_now_and_then_is_found"),
    Mutation("the user's allocator overruled", "train/runtime/allocator.py", ' or "glibc.malloc." in present', "", "training/test_speed.py::test_the_allocator_is_asked_for_once_and_never_against_the_user"),
    Mutation("tokens of a byte", "train/commands/tokenizer.py", "{n_bytes / tokens:.3f}", "{tokens / n_bytes:.3f}", "commands/test_tokenizer_commands.py::test_train_writes_the_tokenizer_and_its_vocabulary"),
    Mutation("merges shown without their parts", "train/commands/tokenizer_show.py", "if len(parts) > 1 else", "if False else", "commands/test_tokenizer_commands.py::test_show"),
    Mutation("the tokenizer of a run may be another", "train/runs/load.py", "if tokenizer.fingerprint() != manifest.tokenizer:", "if False:", "commands/test_checkpoint_commands.py::test_a_changed_config_or_tokenizer_is_named"),
    Mutation("the system prompt forgotten with the oldest answer", "train/writer.py", "[*messages[:first], *messages[first + 2 :]]", "messages[2:]", "commands/test_writer.py::test_the_system_prompt_outlasts_what_is_forgotten"),
    Mutation("the begin token not counted among what evaluation predicts from", "train/commands/evaluate.py", "evaluator(trained.model, trained.config, begin=begin)", "evaluator(trained.model, trained.config)", "commands/test_begin_token.py::test_evaluation_begins_each_window_as_the_model_has_learned[False]"),
    Mutation("a question that does not fit loses its beginning", "train/writer.py", "if writer.room(ids) < 1:", "if False:", "commands/test_beyond_context.py::test_a_question_beyond_the_context_is_refused", "max_new_tokens is 0"),
    Mutation("what may begin a stop string not held back", "train/writer.py", "if held.endswith(stop[:n])), default=0)", "if False), default=0)", "commands/test_writer.py::test_text_ends_before_a_stop_string"),
    Mutation("the peer's speed over ours", "train/bench/statistics.py", "np.median(p) / np.median(o)", "np.median(o) / np.median(p)", "bench/test_bench.py::test_the_ratio_is_above_1_where_we_are_faster"),
    Mutation("a turn of one step", "train/bench/alternate.py", "LEAST = 2", "LEAST = 1", "bench/test_bench.py::test_a_turn_fills_a_second_and_has_two_timed_steps_at_least"),
    Mutation("an MLP that the peer does not have", "train/bench/generate_recording.py", '("d_ff", model.hidden_dim, 4 * model.d_model)', '("d_ff", model.hidden_dim, model.hidden_dim)', "bench/test_bench.py::test_what_a_peer_cannot_do[nanogpt model.d_ff=9]"),
    Mutation("a folder without nanoGPT", "train/bench/train.py", 'if path and not (Path(path) / "model.py").is_file():', "if False:", "bench/test_bench.py::test_wrong_input[tiny.toml --against nanogpt --peer no]"),
    Mutation("a table read by rows counted", "train/bench/generate_worker.py", '{"position_embedding"} | ', 'set() | ', "bench/test_bench_generate.py::test_bytes_that_a_step_reads"),
    Mutation("a plain way however large", "train/bench/scaling.py", "if i == 0 or way.memory_bytes <= MOST_BYTES}", "}", "training/test_speed.py::test_growth_of_attention_and_loss"),
    Mutation("last words with a dot of their own", "train/bench/process.py", '.rstrip(".")', "", "bench/test_bench.py::test_a_peer_that_dies[0]"),
    Mutation("losses that part agree", "train/bench/train_report.py", 'report["loss_difference"] <= report["loss_tolerance"]', "True", "bench/test_bench.py::test_losses_that_part"),
    Mutation("characters that the output lacks", "train/cli.py", "    _escape_missing_characters()\n    words", "    words", "commands/test_output.py::test_a_character_that_the_encoding_lacks_is_escaped[ascii-4-tokenizer show {run}]", "UnicodeEncodeError"),
    Mutation("the user's error handler overruled", "train/cli.py", 'file.errors in ("strict", "surrogateescape")', "True", "commands/test_output.py::test_what_has_the_characters_writes_them"),
    Mutation("a note once", "train/notes.py", 'simplefilter("always", Note)', 'simplefilter("default", Note)', "commands/test_notes.py::test_a_note_is_printed_as_often_as_it_comes"),
    Mutation("any warning a note", "train/notes.py", "if issubclass(category, Note):", "if True:", "commands/test_notes.py::test_other_warnings_are_what_they_were"),
    Mutation("a backend that is not there ends the drawing", "train/plotting.py", 'os.environ.pop("MPLBACKEND", None)', 'os.environ.get("MPLBACKEND")', f"{BACKEND}[nonsense-None]"),
    Mutation("the environment's backend forgotten", "train/plotting.py", "        if named is not None:", "        if False:", f"{BACKEND}[svg-svg]"),
    Mutation("a picture that fails ends its command", "train/plotting.py", "except Exception as error:", "except OSError as error:", "commands/test_plotting.py::test_a_comparison_does_not_depend_on_its_picture[True]", "RuntimeError: latex was not"),
]  # fmt: skip
