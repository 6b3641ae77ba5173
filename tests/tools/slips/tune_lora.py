"""Mutations of low-rank adapters: their products, how they are attached and merged, and PEFT's files of them."""

from slips.mutation import Mutation, twin

LORA, FAST, TWIN = "jaxllm/lora.py", "jaxllm/fast/lora.py", "jaxllm/reference/lora.py"
PEFT, SETTINGS, WRITE = (f"jaxllm/pretrained/{name}.py" for name in ("peft", "peft_settings", "peft_write"))
TESTS, FOLDER = "tune/test_lora.py", "tune/test_peft_folder.py"

MUTATIONS = [
    Mutation("an adapter's scale forgotten", FAST, "linear(scale * low, b)", "linear(low, b)", twin("lora.lora_linear")),
    Mutation("dropout of the base's input too", FAST, "_stored_product(x, kernel)\n", "_stored_product(x if keep is None else dropout(x, keep), kernel)\n", twin("lora.lora_linear", 1)),
    Mutation("int8 weights scaled twice", FAST, "_stored_product(x, weights) * scale.astype(x.dtype)", "_stored_product(x, weights) * scale.astype(x.dtype) ** 2", twin("lora.int8_linear")),
    Mutation("x kept for a frozen kernel", FAST, "x.value if kernel.perturbed else None", "x.value", f"{TESTS}::test_a_backward_keeps_no_x_for_a_frozen_kernel"),
    Mutation("a cast kernel kept for the backward", FAST, "else None, kernel.value)", "else None, kernel.value.astype(x.value.dtype))", f"{TESTS}::test_a_backward_keeps_a_frozen_kernel_as_it_is_stored"),
    Mutation("the reference's dropout left out of dA", TWIN, "(dy, dz, x, m * x)", "(dy, dz, x, x)", twin("lora.lora_linear", 1)),
    Mutation("a frozen kernel that learns", LORA, "lora_linear(x, jax.lax.stop_gradient(self.base),", "lora_linear(x, self.base,", f"{TESTS}::test_the_base_has_no_gradient"),
    Mutation("one dropout for all kernels", LORA, "list(jax.random.split(key, len(paths)))", "[key] * len(paths)", f"{TESTS}::test_each_kernel_has_a_dropout_of_its_own"),
    Mutation("a merge without the scale", LORA, "base + kernel.scale * (a @ b)", "base + a @ b", f"{TESTS}::test_an_adapted_model_is_the_merged_one[gpt2]"),
    Mutation("a merge in float32", LORA, "(np.asarray(x, np.float64) for x in (kernel.a, kernel.b))", "(np.asarray(x, np.float32) for x in (kernel.a, kernel.b))", f"{TESTS}::test_an_adapted_model_is_the_merged_one[gpt2]"),
    Mutation("a head adapted", LORA, 'if not path.startswith("block_")]', 'if False]', f"{TESTS}::test_maps_that_cannot_be_adapted_are_refused", "DID NOT RAISE"),
    Mutation("an adapter that begins as another", LORA, ", maxval=width**-0.5)", ", maxval=(6 / width) ** 0.5)", f"{TESTS}::test_an_adapter_begins_as_in_peft"),
    Mutation("new directions that never learn", LORA, "flat[path] = larger[path].at[", "flat[path] = jnp.zeros_like(larger[path]).at[", f"{TESTS}::test_an_adapter_grows_to_another_rank"),
    Mutation("maps with an adapter joined without it", "jaxllm/fast/quantised_weights.py", 'and not isinstance(part["kernel"], StoredKernel)', "", f"{TESTS}::test_generation_takes_adapted_and_merged_models", "'rows'"),
    Mutation("the parts of a fused map on top of each other", WRITE, "zip(blocks, corners, corners[1:], strict=False)", "zip(blocks, [(0, c) for _, c in corners], corners[1:], strict=False)", f"{FOLDER}::test_a_fused_map_is_written_block_by_block", "ValueError"),
    Mutation("alpha as if the rank were the same", WRITE, "_short(alpha * r / rank)", "_short(alpha)", f"{FOLDER}::test_a_rank_of_its_own_is_written"),
    Mutation("an adapter of NaN written", WRITE, "if not is_finite(leaf):", "if False:", f"{FOLDER}::test_what_has_no_place_in_the_layout_is_refused", "DID NOT RAISE"),
    Mutation("rsLoRA read as LoRA", SETTINGS, "rank**0.5 if self.use_rslora else rank", "rank", f"{FOLDER}::test_scales_of_modules_are_multiplied_into_b"),
    Mutation("a setting of a later PEFT overlooked", SETTINGS, "if name not in known and value]", "if False]", f"{FOLDER}::test_settings_that_are_not_computed_are_refused", "DID NOT RAISE"),
    Mutation("a new adapter of a fused map lost", PEFT, "kept = here | ~used.any(axis=0)", "kept = here", f"{FOLDER}::test_an_adapter_of_a_fused_map_is_split", "KeyError"),
    Mutation("a table trained away from the head it is tied to", PEFT, "if not follows or (head not in tensors and not settings.ensure_weight_tying):", "if not follows:", f"{FOLDER}::test_a_tied_table_is_written_for_both_ends", "DID NOT RAISE"),
    Mutation("modules named as in the first family", "jaxllm/pretrained/peft_write.py", "_family_of(base, config).folder", "_family_of(None, config).folder", f"{FOLDER}::test_modules_are_named_as_in_the_base"),
    Mutation("an adapter read by the first family", "jaxllm/pretrained/peft.py", "if all(_placement(family.folder", "if any(_placement(family.folder", f"{FOLDER}::test_modules_are_named_as_in_the_base"),
]  # fmt: skip
