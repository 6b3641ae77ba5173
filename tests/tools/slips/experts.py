"""Mutations of the mixture of experts: the model, its reference's partner, its files."""

from slips.mutation import Mutation, module, twin

EXPERTS, FAST, PLACES = "jaxllm/experts.py", "jaxllm/fast/experts.py", "jaxllm/pretrained/parameter_map.py"
FILES, MODEL = "pretrained/test_expert_files.py", "model/test_experts.py"

MUTATIONS = [
    Mutation("one expert too few", EXPERTS, "jax.lax.top_k(logits, n_per_token)", "jax.lax.top_k(logits, max(n_per_token - 1, 1))", module("Experts")),
    Mutation("the experts with the smallest logits", EXPERTS, "jax.lax.top_k(logits, n_per_token)", "jax.lax.top_k(-logits, n_per_token)", twin("experts.chosen_experts")),
    Mutation("weights always normalised", EXPERTS, "if normalise else weights", "if True else weights", twin("experts.expert_weights", 1)),
    Mutation("weights never normalised", EXPERTS, "if normalise else weights", "if False else weights", twin("experts.expert_weights")),
    Mutation("the slope of normalised weights without their sum", "jaxllm/reference/experts.py", "keepdims=True)) / total if normalise else dy", "keepdims=True)) if normalise else dy", "model/test_reference.py::test_the_backward_is_the_derivative[experts.expert_weights]"),
    Mutation("gate and up exchanged", FAST, "GATED[activation](linear(x, of_gate), linear(x, of_up))", "GATED[activation](linear(x, of_up), linear(x, of_gate))", twin("experts.experts")),
    Mutation("experts that are chosen left out", FAST, "(chosen == expert[0]).any()", "(chosen == expert[0]).all()", twin("experts.experts")),
    Mutation("every expert computed", FAST, "(chosen == expert[0]).any()", "(chosen == chosen).any()", f"{MODEL}::test_an_expert_that_no_token_chose_is_not_computed"),
    Mutation("all experts count as operations", "jaxllm/config.py", "return self.n_experts_per_token if self.n_experts else 1", "return self.n_experts or 1", f"{MODEL}::test_only_the_experts_of_a_token_count"),
    Mutation("experts begin at zero", "jaxllm/fast/init.py", '("kernel", "kernels", "table")', '("kernel", "table")', f"{MODEL}::test_initial_parameters_are_those_of_init"),
    Mutation("routers adapted unasked", "jaxllm/lora.py", 'if "router" not in (targets or ""):', "if False:", f"{MODEL}::test_adapters_leave_routers_alone_unless_asked"),
    Mutation("experts not transposed", PLACES, '("/kernels" in paths[0] or paths[0].endswith("/kernel"))', 'paths[0].endswith("/kernel")', f"{FILES}::test_experts_are_written_one_by_one"),
    Mutation("experts in the order of their names", PLACES, 'key=lambda path: int(path.rpartition("/")[2])', 'key=lambda path: -int(path.rpartition("/")[2])', f"{FILES}::test_both_layouts_are_read[False-False]"),
    Mutation("a stacked file taken for the other", PLACES, "in found for name in layout.stacked)", "in () for name in layout.stacked)", f"{FILES}::test_both_layouts_are_read[True-False]", "InputError"),
    Mutation("a router packed as all other maps", "jaxllm/fast/quantised_weights.py", '"float32" if name == ROUTER else weights', "weights", f"{MODEL}::test_packed_weights_leave_experts_as_they_are[int8]"),
]  # fmt: skip
