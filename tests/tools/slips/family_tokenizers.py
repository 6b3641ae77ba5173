"""Mutations of what single families' tokenizers and chat templates need."""

from slips.mutation import Mutation

TOKENS, CHAT = "jaxllm/tokenizers/special_tokens.py", "jaxllm/pretrained/chat_template.py"
READER, WRITER = "jaxllm/pretrained/gguf_tokenizer.py", "jaxllm/pretrained/gguf_write_tokenizer.py"
BESIDE = "tokenizers/test_added_tokens.py::test_the_white_space_beside_a_token"
FAMILIES = "tokenizers/test_family_tokenizers.py"
BEYOND = "pretrained/test_hf_added_tokens.py::test_tokens_beyond_the_model_are_left_out"
REASONING = "pretrained/test_chat_templates.py::test_reasoning_has_the_names_that_templates_read"

MUTATIONS = [
    Mutation("white space after a token kept", TOKENS, 'sides[i - 1] in ("right", "both")', "False", BESIDE),
    Mutation("white space before a token kept", TOKENS, 'sides[i + 1] in ("left", "both")', 'sides[i + 1] == "left"', BESIDE),
    Mutation("white space of Python", TOKENS, "part.lstrip(WHITE_SPACE)", "part.lstrip()", BESIDE),
    Mutation("white space of normalized tokens kept", "jaxllm/tokenizers/bpe.py", "in self.without_spaces(split_at_added(normal, self._found_last)):", "in split_at_added(normal, self._found_last):", BESIDE),
    Mutation("chunks that end within white space", "jaxllm/tokenizers/base.py", "BEFORE_SPACES if self.strips else BOUNDARIES", "BOUNDARIES", f"{FAMILIES}::test_no_chunk_divides_the_white_space_of_a_token[bytes]"),
    Mutation("chunks of characters that end within white space", "jaxllm/tokenizers/sentencepiece.py", "        before |= {*WHITE_SPACE} if self.strips else set()\n", "", f"{FAMILIES}::test_no_chunk_divides_the_white_space_of_a_token[characters]"),
    Mutation("a conversation's white space counted", "jaxllm/pretrained/chat.py", "start + part.find(new) if", "start if", f"{FAMILIES}::test_a_conversation_is_written_without_the_white_space"),
    Mutation("Phi-3's tokens take nothing in GGUF", READER, "if not any(name in model for name in TAKING_SPACES):", "if True:", f"{FAMILIES}::test_gguf_keeps_them[phi-3]", "InputError"),
    Mutation("a name that llama.cpp takes for Phi-3", WRITER, 'return words.sub("phi 3", name) if name else name', "return name", f"{FAMILIES}::test_gguf_keeps_them[pythia]", "InputError"),
    Mutation("GPT-NeoX's texts left unnormalized", READER, 'PreTokenizer("gpt2", "NFC")', 'PreTokenizer("gpt2")', f"{FAMILIES}::test_gguf_keeps_them[pythia]", "InputError"),
    Mutation("a begin token of Llama 3 for all with its pattern", READER, '("dbrx", "smaug-bpe"), PreTokenizer("llama3")', '("dbrx", "smaug-bpe"), LLAMA3', f"{FAMILIES}::test_other_names_of_pre_tokenizers"),
    Mutation("lstrip and rstrip lost in an export", "jaxllm/tokenizers/formats/write_tokenizer_json.py", 'side in ("right", "both")', "False", "tokenizers/test_added_tokens.py::test_export_keeps_what_a_token_takes"),
    Mutation("an end token beyond the model left out", "jaxllm/pretrained/hf_added_tokens.py", "i not in (*needed, tokenizer.end_of_text)", "True", BEYOND, "Note"),
    Mutation("reasoning under one name", CHAT, '{"thinking": reasoning, **message, "reasoning_content": reasoning}', "message", REASONING),
    Mutation("a text without keys that fails", "jaxllm/pretrained/tracked_text.py", "slice(i := index(key), i + 1 or None)", "slice(i := key.__index__(), i + 1 or None)", REASONING, "InputError"),
]  # fmt: skip
