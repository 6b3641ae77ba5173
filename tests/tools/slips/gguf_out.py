"""Mutations of writing GGUF files: types of tensors, keys, tokenizers, and the command."""

from slips.mutation import Mutation

ROOM = "jaxllm/pretrained"
ENCODE, ENCODED = f"{ROOM}/gguf_encode.py", "pretrained/test_gguf_encode.py"
SAVED, TOKENS = "pretrained/test_gguf_save.py", "pretrained/test_gguf_write_tokenizer.py"
CONFIG, READER = f"{ROOM}/gguf_write_config.py", f"{ROOM}/gguf_config.py"
FROM_KEYS = "pretrained/test_gguf_model.py"
WRITER, COMMAND = f"{ROOM}/gguf_write_tokenizer.py", "commands/test_export_gguf.py"
REFUSED = f"{COMMAND}::test_bad_input_is_one_sentence"

MUTATIONS = [
    Mutation("halves of Q8_0 to the even number", ENCODE, "whole += size - whole >= 0.5", "whole = np.rint(size)", f"{ENCODED}::test_the_bits_of_gguf_py"),
    Mutation("halves of Q8_0 by adding a half", ENCODE, "whole += size - whole >= 0.5", "whole = np.floor(size + np.float32(0.5))", f"{ENCODED}::test_number_by_number"),
    Mutation("integers of Q8_0 by the rounded scale", ENCODE, "inverse = 1 / scales", "inverse = 1 / scales.astype(np.float16).astype(np.float32)", f"{ENCODED}::test_the_bits_of_gguf_py"),
    Mutation("integers of an infinite inverse", ENCODE, "inverse[~np.isfinite(inverse)] = 0", "inverse[scales == 0] = 0", f"{ENCODED}::test_numbers_too_small_for_an_inverse_become_0", "RuntimeWarning"),
    Mutation("rows of part of a block quantised", ENCODE, 'return "F16" if shape[-1] % BY_NAME[kind][0] else kind', "return kind", f"{ENCODED}::test_which_tensor_gets_which_type"),
    Mutation("learned positions quantised", ENCODE, "if len(shape) < 2 or name.endswith(ALWAYS_FLOAT32):", "if len(shape) < 2:", f"{ENCODED}::test_which_tensor_gets_which_type"),
    Mutation("infinite weights in float16", ENCODE, "if not np.isfinite(halves).all():", "if np.isnan(halves).any():", f"{ENCODED}::test_numbers_beyond_float16_are_refused", "DID NOT RAISE"),
    Mutation("a dtype that nothing writes", ENCODE, "if dtype not in FILE_TYPES:", "if False:", f"{ENCODED}::test_other_dtypes_are_refused", "DID NOT RAISE"),
    Mutation("tensors without gaps", f"{ROOM}/gguf_write.py", "start = _aligned(start + stored_bytes(shape, type_name))", "start = start + stored_bytes(shape, type_name)", f"{SAVED}::test_every_tensor_begins_at_the_alignment", "InputError"),
    Mutation("dimensions in NumPy's order", f"{ROOM}/gguf_write.py", "for n in reversed(shape)]", "for n in shape]", f"{SAVED}::test_every_tensor_begins_at_the_alignment", "InputError"),
    Mutation("content of another size", f"{ROOM}/gguf_write.py", "if written != wanted:", "if False:", f"{SAVED}::test_content_of_another_size_is_an_error"),
    Mutation("rows of Llamas written half-split", f"{ROOM}/parameter_map.py", "pairs = (2, rotated // 2) if interleaved else (rotated // 2, 2)", "pairs = (rotated // 2, 2)", f"{SAVED}::test_gguf_py_reads_what_llama_cpp_expects[llama]"),
    Mutation("a file that is not read again", f"{ROOM}/gguf_save.py", "    check_same_config(opened.config, config)\n", "", f"{SAVED}::test_an_older_file_stays_until_the_new_one_is_whole", "DID NOT RAISE"),
    Mutation("muP's division left out of a GGUF file", f"{ROOM}/gguf_save.py", "flat = without_mup(checked_parameters(params, config), config)", "flat = checked_parameters(params, config)", f"{SAVED}::test_mup_goes_into_the_final_norm"),
    Mutation("a config that GGUF would change", CONFIG, "lacking += [field for field in _differing(found, config) if field not in lacking]", "pass", f"{SAVED}::test_models_that_gguf_cannot_express[a window and norms]"),
    Mutation("a Gemma whose head is its own", CONFIG, "for field, value in its.only.items() if ours[field] != value]", "for field, value in its.only.items() if False]", f"{SAVED}::test_models_that_gguf_cannot_express[an untied Gemma]", "DID NOT RAISE"),
    Mutation("heads of any width in an OLMo", CONFIG, "if its.whole_heads and config.head_dim * config.n_heads != config.d_model:", "if False:", f"{SAVED}::test_models_that_gguf_cannot_express[an OLMo of wide heads]", "DID NOT RAISE"),
    Mutation("a Gemma 3 without a window", CONFIG, "    if unstated:\n        return unstated\n", "", f"{SAVED}::test_models_that_gguf_cannot_express[no window]"),
    Mutation("all fields of a scaling named", CONFIG, "if field not in _consequences(lacking, config)]", "]", f"{SAVED}::test_models_that_gguf_cannot_express[scaled Qwen]"),
    Mutation("whole heads said to be rotated", READER, "rotated_width(config.head_dim, config.rotary_fraction)}", "config.head_dim}", f"{SAVED}::test_the_keys_of_llama_cpp[phi3]", "InputError"),
    Mutation("a fraction that is rounded down", READER, "if int(width * fraction) == rotated else math.nextafter(fraction, math.inf)", "", f"{FROM_KEYS}::test_every_rotated_width_has_a_fraction", "InputError"),
    Mutation("the scale of the largest Gemma", READER, "if config.n_layers == its.scaled_by_width and config.d_model >= config.n_heads:", "if False:", f"{FROM_KEYS}::test_the_largest_gemma_scales_scores_by_its_width"),
    Mutation("a window of 0", READER, "fields[field] = None if value == 0 and its.defaults.get(field, 0) is None else value", "fields[field] = value", f"{FROM_KEYS}::test_what_llama_cpp_takes_for_omitted_keys", "InputError"),
    Mutation("keys of one architecture overlooked", READER, "{**HARMLESS, **its.harmless}.items()", "HARMLESS.items()", f"{FROM_KEYS}::test_keys_of_one_architecture_are_refused"),
    Mutation("queries of a GPT-NeoX by head", f"{ROOM}/gpt_families.py", '"gptneox", Layout(GGUF_JOINED)', '"gptneox", Layout(GGUF_JOINED, by_head=True)', f"{SAVED}::test_gguf_py_reads_what_llama_cpp_expects[gptneox]"),
    Mutation("a Llama written as a Mistral", f"{ROOM}/families.py", "GPT2, LLAMA, MISTRAL, QWEN2,", "GPT2, MISTRAL, LLAMA, QWEN2,", "pretrained/test_pretrained.py::test_a_width_that_heads_do_not_divide_is_a_mistral"),
    Mutation("biases of GGUF's norms crossed", f"{ROOM}/family.py", '"blk.{i}.attn_norm.bias": "block_{i}/norm_1/bias"', '"blk.{i}.attn_norm.bias": "block_{i}/norm_2/bias"', f"{SAVED}::test_gguf_py_reads_what_llama_cpp_expects[gpt2]"),
    Mutation("a SmolLM 3 in half-split order", f"{ROOM}/llama_families.py", '"smollm3", Layout(GGUF_APART, interleaved=True)', '"smollm3", Layout(GGUF_APART)', f"{SAVED}::test_gguf_py_reads_what_llama_cpp_expects[smollm3]"),
    Mutation("a Gemma 2 that is never local", f"{ROOM}/llama_families.py", 'fixed={"layer_pattern": "LG"},', 'fixed={"layer_pattern": "G"},', f"{SAVED}::test_a_file_round_trips[gemma2-float32]", "InputError"),
    Mutation("another GELU unsaid", f"{ROOM}/gguf_save.py", "    _note_activation(its, config)\n", "", f"{SAVED}::test_another_form_of_gelu_is_noted", "DID NOT WARN"),
    Mutation("frequencies in place of their divisors", CONFIG, "return (1 / (share + (1 - share) / config.rope_factor)).astype", "return (share + (1 - share) / config.rope_factor).astype", f"{SAVED}::test_the_scaling_of_llama_3_is_a_tensor", "InputError"),
    Mutation("interleaved merges in a run of scores", WRITER, "score -= first > end", "score -= 1", f"{TOKENS}::test_tokens_of_equal_scores", "InputError"),
    Mutation("a tokenizer that is not read again", WRITER, "    _check_read_back(tokenizer, tokens, keys)\n", "", f"{TOKENS}::test_what_gguf_cannot_express_is_refused", "DID NOT RAISE"),
    Mutation("unused ids as control tokens", WRITER, 'return UNUSED if special == f"[PAD{i}]" else', "return", f"{TOKENS}::test_ids_without_a_token_get_unused_ones"),
    Mutation("another begin token for bos", WRITER, "if begin is not None and bos not in (None, begin):", "if False:", f"{TOKENS}::test_what_gguf_cannot_express_is_refused", "DID NOT RAISE"),
    Mutation("a file without an end token", WRITER, "*chat.end_tokens, tokenizer.end_of_text)", "*chat.end_tokens)", f"{TOKENS}::test_which_ids_have_roles"),
    Mutation("spaces of runs as added tokens", WRITER, "return isinstance(tokenizer, SentencePieceTokenizer) and SPACE in added", "return False", f"{TOKENS}::test_added_tokens_of_spaces_are_made_by_merges"),
    Mutation("a folder of a GGUF file's name", "train/commands/export.py", "    if is_gguf(arguments.out):\n        write_gguf", "    if False:\n        write_gguf", f"{COMMAND}::test_what_a_reader_does_in_another_way_is_said"),
    Mutation("an older GGUF file is overwritten", "train/outputs.py", "    check_new(path)\n    temporary = _beside(path)", "    temporary = _beside(path)", REFUSED),
    Mutation("a GGUF file left although it differs", "train/commands/export_gguf.py", "with new_file(out) as file:", "for file in [out]:", f"{COMMAND}::test_a_file_of_other_weights_is_not_left"),
    Mutation("a folder where a GGUF file is asked for", "train/commands/export.py", "if is_gguf(arguments.out):", "if False:", f"{COMMAND}::test_what_a_reader_does_in_another_way_is_said"),
    Mutation("adapters in a GGUF file", "train/commands/export_gguf.py", "if arguments.adapter:", "if False:", REFUSED),
    Mutation("a dtype for a folder", "train/commands/export_gguf.py", "if arguments.dtype is not None:\n            raise", "if False:\n            raise", REFUSED),
]  # fmt: skip
