"""Mutations of the options that make a GPT a Qwen 2, SmolLM 3, OLMo 2, Gemma 2 or 3, GPT-NeoX, GPT-Neo or Phi-3."""

from slips.mutation import Mutation, module, twin

BLOCK, ATTENTION, CONFIG = "jaxllm/block.py", "jaxllm/attention.py", "jaxllm/config.py"
RULES, DECODE = "jaxllm/config_rules.py", "jaxllm/fast/cached_gpt.py"
FILES = "jaxllm/pretrained/"
LAYERS, ROTARY, PLACES = (f"{FILES}{name}.py" for name in ("hf_layers", "hf_rotary", "parameter_map"))
AGREES = "model/test_gpt.py::test_model_agrees_with_the_reference"
CACHED = "model/test_layer_options.py::test_cached_logits_are_the_uncached_ones"
OPTIONS = "model/test_layer_options.py"
READ = "pretrained/test_hf_config.py::test_settings_are_read"
SAVED = "pretrained/test_pretrained.py::test_a_saved_model_is_loaded_again"
WHOLE = module("MultiHeadAttention whole")

MUTATIONS = [
    Mutation("the norm of a result before it", BLOCK, "return _unchanged, norm\n", "return norm, _unchanged\n", f"{AGREES}[olmo 2-float64]"),
    Mutation("no norm of results beside that of inputs", BLOCK, 'if self.config.norm_place == "both" else', 'if self.config.norm_place == "neither" else', f"{AGREES}[gemma 3-float64]", "norm_1_after"),
    Mutation("the MLP in parallel reads the sum", BLOCK, "read = x if self.config.parallel_residual else residual", "read = residual", f"{AGREES}[neox-float64]"),
    Mutation("a cached MLP in parallel reads the sum", DECODE, "read = x if self.config.parallel_residual else residual", "read = residual", f"{CACHED}[neox]"),
    Mutation("a cached result of attention without its norm", DECODE, "residual = x + after_1(y)", "residual = x + y", f"{CACHED}[olmo 2]"),
    Mutation("queries have the biases of other maps", ATTENTION, "use_bias = self.use_bias if self.qkv_bias is None else self.qkv_bias", "use_bias = self.use_bias", f"{OPTIONS}::test_which_maps_have_biases"),
    Mutation("one norm of all heads for each head", ATTENTION, 'if self.qk_norm == "whole":', 'if self.qk_norm == "wholly":', f"{OPTIONS}::test_which_norms_queries_and_keys_have", "query_norm"),
    Mutation("a scale beside the usual one", ATTENTION, "q * (self.scale * width**0.5)", "q * self.scale", WHOLE),
    Mutation("all of a head rotated", "jaxllm/rotary.py", "width = rotated_width(x.shape[-1], fraction)", "width = x.shape[-1]", twin("rotary.rotate_heads", 1)),
    Mutation("the last features of a head rotated in place of the first", "jaxllm/rotary.py", "jnp.concatenate([turned, x[..., width:]], axis=-1)", "jnp.concatenate([x[..., width:], turned], axis=-1)", twin("rotary.rotate_heads", 1)),
    Mutation("a soft cap without its height", "jaxllm/softcap.py", "return cap * jnp.tanh(x / cap)", "return jnp.tanh(x / cap)", twin("softcap.softcap")),
    Mutation("no cap of the scores", "jaxllm/softcap.py", "return config.score if config.score_softcap is None else", "return config.score if True else", f"{AGREES}[gemma 3-float64]"),
    Mutation("local layers where global ones are", CONFIG, 'if _at(self.layer_pattern, i) == "G":', 'if _at(self.layer_pattern, i) == "L":', f"{AGREES}[neo-float64]"),
    Mutation("layers counted from one", CONFIG, "return pattern[i % len(pattern)] if pattern", "return pattern[(i + 1) % len(pattern)] if pattern", f"{OPTIONS}::test_the_config_of_a_layer"),
    Mutation("local layers with scaled positions", CONFIG, "rope_base=self.rope_local_base, rope_factor=1.0", "rope_base=self.rope_local_base", f"{OPTIONS}::test_the_config_of_a_layer"),
    Mutation("local layers with YaRN's factor of attention", CONFIG, "rope_factor=1.0, rope_attention_factor=None)", "rope_factor=1.0)", f"{OPTIONS}::test_the_config_of_a_layer"),
    Mutation("positions in layers without them", CONFIG, 'return replace(alike, position="none") if', 'return alike if', f"{AGREES}[smollm 3-float64]"),
    Mutation("a window that local layers lack", RULES, '"L" in config.layer_pattern and config.sliding_window is None', 'False', f"{OPTIONS}::test_what_does_not_fit_together"),
    Mutation("a cap beside a user's function", RULES, "if function is not None and cap is not None:", "if False:", f"{OPTIONS}::test_what_does_not_fit_together"),
    Mutation("a pattern that is not the shortest", LAYERS, "for n in range(1, len(letters) + 1)", "for n in range(len(letters), 0, -1)", f"{READ}[gemma 3]"),
    Mutation("every fifth layer of a Gemma 3 global", LAYERS, 'content.get("sliding_window_pattern", 6)', 'content.get("sliding_window_pattern", 5)', f"{READ}[gemma 3]"),
    Mutation("layers below max_window_layers with a window", LAYERS, "SLIDING if i >= first else FULL", "SLIDING if i < first else FULL", f"{READ}[qwen 3 with a window in its last layer]"),
    Mutation("layers with positions taken for those without", LAYERS, '"R" if one else "N" for one in rotated', '"N" if one else "R" for one in rotated', f"{READ}[smollm 3]"),
    Mutation("the base of global layers for local ones", ROTARY, 'content.get("rope_local_base_freq", its.local_base)', 'content.get("rope_theta", its.local_base)', f"{READ}[gemma 3]"),
    Mutation("a quarter of a head whatever the file says", ROTARY, "content.get(its.names[1], its.fraction)", "its.fraction", f"{READ}[gpt neox]"),
    Mutation("a scaling of Phi-3 taken for Llama's", ROTARY, 'if not its.scaled and kind != "default":', "if False:", "pretrained/test_hf_config.py::test_settings_that_would_change_numbers_are_refused"),
    Mutation("a scaling written into Phi-3's settings", ROTARY, "    if not its.scaled:\n", "    if False:\n", "pretrained/test_pretrained.py::test_models_that_no_family_can_express"),
    Mutation("maps of all heads one after the other", PLACES, "    if layout.by_head:", "    if False:", f"{SAVED}[GPTNeoXForCausalLM]"),
    Mutation("grouped maps cut into equal parts", PLACES, "np.split(x, np.cumsum(widths)[:-1], axis=-1)", "np.split(x, len(paths), axis=-1)", f"{SAVED}[Phi3ForCausalLM]", "array split"),
    Mutation("quantised weights read as if they were plain", f"{FILES}family.py", ' "quantization_config": (None,),', "", "pretrained/test_hf_config.py::test_settings_that_would_change_numbers_are_refused"),
    Mutation("a Mistral before a Llama", f"{FILES}families.py", "LLAMA, MISTRAL,", "MISTRAL, LLAMA,", "pretrained/test_pretrained.py::test_models_that_no_family_can_express"),
    Mutation("the rotated part of a GPT-NeoX under another name", f"{FILES}gpt_families.py", '"rotary_pct"', '"rotary_share"', f"{READ}[gpt neox]"),
    Mutation("the slope of a cap without the square", "jaxllm/reference/softcap.py", "dy * (1 - t**2)", "dy * (1 - t)", "model/test_reference.py::test_the_backward_is_the_derivative[softcap.softcap]"),
    Mutation("the reference's soft cap without its height", "jaxllm/reference/softcap.py", "return cap * np.tanh(float64(x) / cap)", "return np.tanh(float64(x) / cap)", twin("softcap.softcap"), "returns another result than reference_fn"),
    Mutation("the scores of a GPT-Neo doubled", "jaxllm/pretrained/gpt_families.py", '"attention_scale": 1.0}', '"attention_scale": 2.0}', f"{READ}[gpt neo]"),
    Mutation("maps of a GGUF file exchanged", "jaxllm/pretrained/family.py", 'zip("qkv", attention_paths(leaf), strict=True)', 'zip("qvk", attention_paths(leaf), strict=True)', "pretrained/test_gguf_model.py::test_a_gguf_file_is_the_folder[float32-llama]"),
    Mutation("an exported folder that is not verified", "train/commands/export.py", "if arguments.verify:", "if False:", "commands/test_export_verify.py::test_a_folder_of_other_weights_is_not_left"),
    Mutation("a TPU's kernel without the cap", "jaxllm/fast/splash.py", "attn_logits_soft_cap=cap,", "", "model/test_fast_attention.py::test_the_kernel_of_a_tpu_agrees_with_the_formula[False-100-0.7]"),
    Mutation("the window of some layers said of all", "train/commands/train_report.py", "if local < n else", "if False else", "model/test_score_and_visible.py::test_training_says_which_attention_it_uses"),
    Mutation("a setting that transformers passes over", ROTARY, ' and not given.get("truncate", True):', " and False:", "pretrained/test_hf_config.py::test_settings_that_would_change_numbers_are_refused", "DID NOT RAISE"),
    Mutation("the wrong kind of layers blamed", ROTARY, "(SLIDING, local) if scaled else (FULL, given)", "(SLIDING, local)", "pretrained/test_hf_config.py::test_settings_that_would_change_numbers_are_refused"),
]  # fmt: skip
