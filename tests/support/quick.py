"""The tests that `pytest -m quick` runs: in every folder those that notice most in the least time.

Doctests are quick too.
"""

import re

# file -> its quick tests, as regular expressions that match the beginning of a name; an empty tuple means all
QUICK: dict[str, tuple[str, ...]] = {
    # the numbers: each function and its twin, value and gradient, in float64
    "model/test_twins.py": (
        "test_every", "test_twins_share_their_signature", r"test_agrees_with_twin\[.*-float64-jit",
        r"test_module_agrees_with_twin\[.*-float64",
    ),
    "model/test_attention.py": (),
    "model/test_gpt.py": (
        r"test_model_agrees_with_the_reference\[(gpt2|llama)-float64", "test_gpt2_has_its_published_number",
        "test_causality_by_value",
    ),
    "model/test_reference.py": ("test_every", "test_the_schedule", "test_clipping", "test_adamw"),
    "model/test_generate.py": ("test_where_the_context_ends",),
    "compare/test_report.py": (),
    "compare/test_function.py": ("test_a_wrong_value", "test_a_small_gradient"),
    # texts and ids
    "tokenizers/test_tokenizers.py": ("test_bpe", "test_char", "test_word", "test_save_and_load", "test_bad_input"),
    "tokenizers/test_pre_tokenize.py": ("test_chunks", "test_encoding_in_chunks"),
    "data/test_windows.py": ("test_pairs", "test_split", "test_an_epoch", "test_a_batch", "test_evaluation"),
    "data/test_batches.py": (),
    # other people's files
    "pretrained/test_hf_config.py": (),
    "pretrained/test_header_limits.py": (),
    "pretrained/test_pretrained.py": ("test_a_saved_model_is_loaded_again",),
    # training: a step and its optimizer, a run, a checkpoint
    "training/test_step.py": ("test_schedule", "test_the_optimizer", "test_clipping"),
    "training/test_train.py": ("test_the_run_folder", "test_metrics", "test_an_interrupted_run"),
    "training/test_checkpoint.py": ("test_what_was_saved", "test_damage_names"),
    "training/test_verdict.py": (),
    "training/test_parting.py": (),
    # tuning: what is learned of an example, and how examples fill batches
    "tune/test_merge_proof.py": ("test_a_small_change", "test_a_merge_of_other"),
    "tune/test_rendered.py": ("test_answers_are_learned", "test_the_ids_before", "test_masks"),
    "tune/test_tune_batches.py": (),
    "tune/test_measures.py": ("test_the_table",),
    "tune/test_objectives.py": ("test_answers_count", "test_a_label"),
    "tune/test_reference_log_probs.py": ("test_each_part", "test_what_cannot"),
    # scores of tasks
    "tasks/test_choices.py": (),
    # the course
    "learn/test_pieces_model.py": ("test_right",),
    # the commands and their errors
    "commands/test_configs.py": ("test_overrides", "test_limits", "test_rules", "test_every", "test_the_fields_type"),
    "commands/test_runs_command.py": ("test_tables", "test_wrong_folders"),
    "commands/test_cli.py": ("test_wrong", "test_a_mistyped_command", "test_help"),
    "bench/test_bench.py": ("test_medians", "test_the_ratio", "test_operations"),
    "utils/test_other_systems.py": (),
    # the house
    "house/test_imports.py": (),
    "house/test_layering.py": (),
    "house/test_mutations.py": (),
    "house/test_names.py": (),
    "house/test_readme.py": ("test_commands", "test_what_it_names", "test_the_tests", "test_every"),
    "house/test_quick.py": (),
}  # fmt: skip


def is_quick(nodeid: str) -> bool:
    """Whether the test with this node id is quick."""
    file, _, name = nodeid.partition("::")
    if not file.startswith("tests/"):
        return True  # a doctest
    names = QUICK.get(file.removeprefix("tests/"))
    return names is not None and (not names or any(re.match(one, name) for one in names))
