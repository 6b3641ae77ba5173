"""Mutations of reading and writing files of other programs: weights, settings, tokenizers, conversations."""

from slips.mutation import Mutation

PLACES, ADDED = "jaxllm/pretrained/parameter_map.py", "jaxllm/pretrained/hf_added_tokens.py"
TWO_FILES = "pretrained/test_hf_added_tokens.py::test_which_of_two_files_names_the_end"

MUTATIONS = [
    Mutation("what a user wrote taken for the template's", "jaxllm/pretrained/tracked_text.py", "self._users = USERS * len(self) if users is None else users", "self._users = bytes(len(self)) if users is None else users", "pretrained/test_chat_templates.py::test_what_a_user_wrote_is_never_a_special_token"),
    Mutation("a replaced text keeps the origin of what it replaces", "jaxllm/pretrained/tracked_text.py", "tracked(new)._users.join(", "by_template(new)._users.join(", "pretrained/test_chat_templates.py::test_what_comes_of_a_message_is_the_users"),
    Mutation("a role in several words counts as the template's", "jaxllm/pretrained/chat_template.py", "ROLE.fullmatch(role)", "ROLE.match(role)", "pretrained/test_chat_templates.py::test_what_comes_of_a_message_is_the_users"),
    Mutation("the rows of GGUF's Llamas left interleaved", PLACES, "if layout.interleaved:", "if False:", "pretrained/test_gguf_model.py::test_a_gguf_file_is_the_folder[float32-llama]"),
    Mutation("the final norm of a wide model goes out undivided", "jaxllm/pretrained/save.py", 'path.startswith("norm_final/")', 'False', "pretrained/test_pretrained.py::test_a_model_with_mup_is_saved_without"),
    Mutation("interleaved heads go out as they are", PLACES, "if interleaved == (config", "if True or interleaved == (config", "pretrained/test_pretrained.py::test_interleaved_positions_are_saved_half_split"),
    Mutation("values to begin with kept in no file", "jaxllm/pretrained/hf_config.py", '"separator", "zero_init",', '"separator",', "pretrained/test_pretrained.py::test_limits_of_unused_features_do_not_refuse_a_model[initial values]", "zero_init = True"),
    Mutation("Gemma's norms without their 1", PLACES, "x = x + np.asarray(layout.offset, x.dtype)", "pass", "pretrained/test_pretrained.py::test_a_saved_model_is_loaded_again[GemmaForCausalLM]"),
    Mutation("shapes of tensors not compared", PLACES, "if wanted.get(name, shape) != shape", "if False", "pretrained/test_hf_folder.py::test_all_that_does_not_fit_is_reported_at_once"),
    Mutation("another head taken for the table", "jaxllm/pretrained/load.py", "or not np.array_equal(self.read(head), self.read(table))", "", "pretrained/test_pretrained.py::test_a_tied_table_may_be_there_twice_or_as_the_head"),
    Mutation("Q6_K's zero one lower", "jaxllm/pretrained/gguf_quantised.py", "return _signed(q, 32), _float32(x", "return _signed(q, 31), _float32(x", "pretrained/test_gguf_quantised.py::test_number_by_number[Q6_K]"),
    Mutation("an unknown field of pretrained.json", "jaxllm/pretrained/chat.py", "(unknown := sorted(set(fields) - set(cls.__dataclass_fields__)))", "(unknown := [])", "pretrained/test_chat.py::test_a_file_keeps_the_format", "TypeError"),
    Mutation("an epsilon of another family", "jaxllm/pretrained/llama_families.py", '"hidden_act": "silu", "rms_norm_eps": 1e-6,', '"hidden_act": "silu", "rms_norm_eps": 1e-5,', "pretrained/test_hf_config.py::test_settings_are_read[llama with defaults]"),
    Mutation("a shard that lacks its tensor", "jaxllm/pretrained/hf_folder.py", "if missing := [name for name in shards if name not in tensors]:", "if missing := []:", "pretrained/test_hf_folder.py::test_shards"),
    Mutation("data of GGUF where its header ends", "jaxllm/pretrained/gguf.py", "data = -(-self.file.tell() // alignment) * alignment", "data = self.file.tell()", "pretrained/test_headers.py::test_gguf_is_read"),
    Mutation("a name of GGUF a byte too long refused", "jaxllm/pretrained/gguf.py", "if length > most:", "if length >= most:", "pretrained/test_header_limits.py::test_limits_of_gguf_are_within", "InputError"),
    Mutation("sizes of GGUF that contradict each other", "jaxllm/pretrained/gguf_config.py", "make_config(fields, _contradictions(metadata, its, config), path)", "pass", "pretrained/test_gguf_model.py::test_keys_that_would_change_numbers_are_refused"),
    Mutation("merges of equal scores by their ids", "jaxllm/pretrained/gguf_tokenizer.py", "sorted(merges, key=itemgetter(0, 1, 2), reverse=True)", "sorted(merges, reverse=True)", "tokenizers/test_sentencepiece.py::test_equal_scores_of_gguf"),
    Mutation("a name tried before the path", "jaxllm/pretrained/fetch.py", "if os.path.exists(source):", "if False:", "pretrained/test_fetch.py::test_a_local_path_wins", "InputError"),
    Mutation("data of safetensors where its header ends", "jaxllm/pretrained/safetensors.py", "(-len(encoded) % 8)", "0", "pretrained/test_header_limits.py::test_data_of_safetensors_begin_at_a_multiple_of_8[3]"),
    Mutation("a hole in safetensors", "jaxllm/pretrained/safetensors.py", "if start != end:", "if start < end:", "pretrained/test_headers.py::test_every_rule_of_safetensors"),
    Mutation("a folder with something in it", "jaxllm/pretrained/save.py", "(not path.is_dir() or any(path.iterdir()))", "not path.is_dir()", "pretrained/test_pretrained.py::test_parameters_of_another_model_are_refused"),
    Mutation("the layout of transformers 5 before that of 4", "jaxllm/pretrained/hf_config.py", 'content.get("rope_scaling") or content.get("rope_parameters")', 'content.get("rope_parameters") or content.get("rope_scaling")', "pretrained/test_hf_config.py::test_settings_are_read[llama with a scaling in both layouts]"),
    Mutation("a template's text without a bound", "jaxllm/pretrained/chat_template.py", "        if left < 0:", "        if False:", "pretrained/test_chat.py::test_a_template_that_fails_is_one_sentence"),
    Mutation("a file cut short read beyond its end", "jaxllm/pretrained/tensor_file.py", "if size < tensor.stop:", "if False:", "pretrained/test_headers.py::test_a_file_cut_short_after_its_header_was_read", "ValueError"),
    Mutation("tokenizer_config.json over special_tokens_map.json", ADDED, "config | optional_json(folder / SPECIAL_TOKENS_MAP)", "optional_json(folder / SPECIAL_TOKENS_MAP) | config", f"{TWO_FILES}[fields0-257]"),
    Mutation("special_tokens_map.json where it is not read", ADDED, "return config if DECODER in config else", "return config if False else", f"{TWO_FILES}[fields2-256]"),
    Mutation("a token with a role found in any text", ADDED, 'one | {"special": True} if one["content"] in roles else one', "one", "pretrained/test_hf_added_tokens.py::test_which_file_says_what_is_special"),
    Mutation("the id 0 ends no answer", "jaxllm/pretrained/hf_tokenizer.py", "for i in (*ids, eos_token) if i is not None", "for i in (*ids, eos_token) if i", "pretrained/test_hf_tokenizer.py::test_the_id_0_ends_answers_and_begins_texts"),
    Mutation("a vocabulary without its merges", "jaxllm/pretrained/hf_tokenizer.py", "if not all((folder / name)", "if not any((folder / name)", "pretrained/test_hf_tokenizer.py::test_files_that_cannot_be_read", "Regex pattern did not match"),
    Mutation("an infinite weight below 0", "jaxllm/pretrained/tensor_file.py", "-most <= x.min(initial=0) and ", "", "pretrained/test_finite_weights.py::test_a_gguf_file_with_them_is_refused"),
]  # fmt: skip
