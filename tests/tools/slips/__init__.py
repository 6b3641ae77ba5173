"""Common mistakes by folder, each with the test that must notice it. `tests/tools/mutate.py` applies them one by one."""

from slips import (
    comparing_foreign,
    comparing_runs,
    comparison,
    diagnosis,
    experts,
    families,
    family_tokenizers,
    gguf_out,
    learn_checking,
    learn_page,
    learn_pieces,
    learn_training,
    lookup,
    model,
    plan,
    pretrained,
    program,
    rope_scaling,
    texts,
    training,
    tune_examples,
    tune_layouts,
    tune_lora,
    tune_losses,
    tune_merge,
    tune_runs,
    tune_tasks,
)
from slips.mutation import Mutation, stale

ROOMS = (
    model, comparison, texts, pretrained, training, program, plan,
    comparing_foreign, comparing_runs, diagnosis, experts, families, family_tokenizers, gguf_out, learn_checking, learn_page, learn_pieces, learn_training, lookup, rope_scaling,
    tune_examples, tune_layouts, tune_lora, tune_losses, tune_merge, tune_runs, tune_tasks,
)  # fmt: skip
MUTATIONS: list[Mutation] = [one for room in ROOMS for one in room.MUTATIONS]

__all__ = ["MUTATIONS", "Mutation", "stale"]
