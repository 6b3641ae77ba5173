"""Mutations of tuning on many devices, and of other commands on runs that tune."""

from slips.mutation import Mutation

PLACES, LAYOUTS = "train/parallel/placing.py", "tune/test_layouts.py"
COMPARE, OTHERS = "train/commands/compare.py", "tune/test_other_commands.py"
PLANNED, KINDS, RULES = "train/plan/compiled.py", "train/tune/kinds.py", "jaxllm/parallel.py"

MUTATIONS = [
    Mutation("frozen parameters whole on each device", PLACES, "for tree in (state.params, state.frozen):", "for tree in (state.params,):", f"{LAYOUTS}::test_a_frozen_parameter_lies_as_one_that_changes"),
    Mutation("pairs cut along what is no position", PLACES, "TOKENS if n_dims == 2 else TOKENS[:1]", "TOKENS", f"{LAYOUTS}::test_a_batch_may_be_a_tree"),
    Mutation("B cut as A", RULES, '"a": (0, None), "b": (None, 1)', '"a": (0, None), "b": (None, 0)', f"{LAYOUTS}::test_parts_of_a_kernel_lie_as_it_does"),
    Mutation("the map within an adapter's leaf by no rule", RULES, ' if name != "base"]', "]", f"{LAYOUTS}::test_parts_of_a_kernel_lie_as_it_does"),
    Mutation("examples cut by position", "train/tune/config.py", 'if config.parallel.context > 1 and config.tune.kind != "pretrain":', "if False:", f"{LAYOUTS}::test_examples_are_not_cut_by_position", "DID NOT RAISE"),
    Mutation("a pair counted as one row", "train/config.py", 'rows = 2 if config.tune.kind == "prefer" else 1', "rows = 1", f"{OTHERS}::test_the_tokens_of_a_step_are_those_of_both_answers"),
    Mutation("an optimizer of adapters beside whole parameters", COMPARE, "partition_of(self.config) is None or self.opt_state is None", "True", f"{OTHERS}::test_a_run_with_adapters_is_compared[instruct-shape0]", "pytree structure error"),
    Mutation("a classifier held to tokens", COMPARE, "np.broadcast_to(whole.max(-1, keepdims=True), inputs.shape)", "inputs % run.model.config.n_classes", f"{OTHERS}::test_rows_of_examples_are_compared"),
    Mutation("random tokens as labels", COMPARE, "tokens[:, 1:] % (model.n_classes or model.vocab_size)", "tokens[:, 1:]", f"{OTHERS}::test_a_classifier_with_random_weights_is_compared"),
    Mutation("all blocks planned as the first", PLANNED, "all(block == changing[0] for block in changing)", "True", f"{OTHERS}::test_blocks_with_other_adapters_are_all_compiled"),
    Mutation("a plan that counts no frozen parameters", PLANNED, '"gradients": copies * parameters, "frozen": frozen,', '"gradients": copies * parameters, "frozen": 0,', f"{OTHERS}::test_a_tuning_is_planned"),
    Mutation("a planned batch without its documents", KINDS, "*(tokens, tokens) if config.tune.packing else (None, None)", "None, None", f"{OTHERS}::test_a_planned_batch_has_the_shapes_of_one[instruct packing]"),
    Mutation("each process writes", "train/tune/reference_log_probs.py", "if jax.process_index() == 0:", "if True:", "tune/test_reference_log_probs.py::test_one_of_several_processes_writes"),
    Mutation("a step of no operations that are known", "train/runs/summary.py", " or partition_of(config):", ":", f"{OTHERS}::test_the_tokens_of_a_step_are_those_of_both_answers"),
    Mutation("a classifier that is asked", "train/writer.py", "if config.n_classes:", "if False:", f"{OTHERS}::test_what_is_refused_gets_one_sentence[chat classify-classify is a classifier, which writes no text; use `jaxllm classify classify --text TEXT`]"),
]  # fmt: skip
