"""Mutations of the comparison with models of PyTorch."""

from slips.mutation import Mutation

FOREIGN = "jaxllm/compare/foreign/"
TRACES, NAMES, BESIDE = (f"compare/test_foreign_{name}.py::test_" for name in ("traces", "names", "side_by_side"))

MUTATIONS = [
    Mutation(
        "a recorder that needs jaxllm",
        f"{FOREIGN}record.py",
        "import numpy as np",
        "import jaxllm\nimport numpy as np",
        f"{TRACES}the_recorder_stands_alone",
    ),
    Mutation(
        "the whole model without a name",
        f"{FOREIGN}trace.py",
        'k.partition("/")[2] or ROOT: x',
        'k.partition("/")[2]: x',
        f"{TRACES}the_whole_model_is_called_by_a_dot",
        "KeyError",
    ),
    Mutation(
        "head 10 before head 2",
        f"{FOREIGN}names.py",
        "key=lambda match: int(match[1])",
        "key=lambda match: match[1]",
        f"{NAMES}heads_of_their_own_modules_are_joined",
    ),
    Mutation(
        "the sum of embeddings sought in a model with a head alone",
        f"{FOREIGN}layouts.py",
        'theirs.removesuffix("h.{i}") + "drop"',
        '"transformer.drop"',
        f"{NAMES}a_model_without_its_head",
    ),
    Mutation(
        "a missing bias taken for 1",
        f"{FOREIGN}matched.py",
        '{"bias": np.zeros, "scale": np.ones}',
        '{"bias": np.ones, "scale": np.ones}',
        f"{NAMES}what_only_one_side_has",
    ),
    Mutation(
        "no residual to fill in",
        f"{FOREIGN}template.py",
        'else ["residual_1"]',
        "else []",
        f"{NAMES}a_layout_is_guessed[nanoGPT]",
    ),
    Mutation(
        "attention not apart from its maps",
        f"{FOREIGN}replay.py",
        "yield from _core(matched, part, name, inside)",
        "pass",
        f"{BESIDE}rotary_positions_are_of_the_heads",
    ),
    Mutation(
        "patterns of layers forgotten",
        f"{FOREIGN}replay.py",
        "matched.config.of_layer(int(inside[1])) if inside else",
        "matched.config.of_layer(0) if inside else",
        f"{BESIDE}layers_that_differ",
    ),
    Mutation(
        "heads blamed for the norm of keys",
        f"{FOREIGN}replay.py",
        "return y if np.array_equal(read, made) else None",
        "return None",
        "commands/test_compare_foreign.py::test_one_norm_of_keys_with_another_epsilon",
        "values to unpack",
    ),
    Mutation(
        "joined maps of all heads one after the other",
        f"{FOREIGN}layouts.py",
        "heads = config.n_heads if layout.by_head and len(paths) > 1 else None",
        "heads = None",
        f"{NAMES}the_parameters_of_each_family_are_found[GPTNeoXForCausalLM]",
    ),
    Mutation(
        "a kind of piece that nothing computes",
        f"{FOREIGN}piece.py",
        "if self.kind not in KINDS:",
        "if False:",
        "compare/test_diagnosis.py::test_bad_pieces",
    ),
    Mutation(
        "Adam's decay for AdamW's",
        f"{FOREIGN}backward.py",
        'decoupled = settings["rule"] == "adamw"',
        'decoupled = settings["rule"] == "adam"',
        f"{BESIDE}what_agrees_is_within_tolerance",
    ),
    Mutation(
        "a block blamed for its norm",
        f"{FOREIGN}side_by_side.py",
        'name.startswith(f"{row.name}/")',
        'name == row.name + "/"',
        f"{BESIDE}each_fault_shows_in_its_own_module",
    ),
    Mutation(
        "gradients blamed for the forward",
        f"{FOREIGN}side_by_side.py",
        "if forward_passed and not faults:",
        "if True:",
        f"{BESIDE}a_wrong_forward_does_not_blame_the_gradients",
    ),
    Mutation(
        "a departure that exits with 0",
        "train/commands/compare_foreign.py",
        "return 0 if found.report.passed else 1",
        "return 0",
        "commands/test_compare_foreign.py::test_a_model_that_departs",
    ),
    Mutation(
        "a name that changes the terminal",
        "jaxllm/compare/foreign/trace.py",
        "if not name.isprintable():",
        "if False:",
        "compare/test_foreign_traces.py::test_recordings_that_lack_something",
        "DID NOT RAISE",
    ),
]
