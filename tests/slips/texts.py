"""Tokenizers and data."""

from slips.mutation import Mutation

FAST_TRAINER = "test_tokenizers.py::test_bpe_fast_trainer_learns_the_textbooks_merges"
MERGES = "jaxllm/tokenizers/merges.py"

MUTATIONS = [
    Mutation("pairs of a doubled token counted twice", MERGES, "count - doubled if x == a else count", "count", FAST_TRAINER),
    Mutation("a token that another has taken in still stands", MERGES, "ids[middle] = INSIDE", "pass", FAST_TRAINER),
    Mutation("text cut within a run of white space", "jaxllm/tokenizers/pieces.py", '_MARK = r"[^\\s\\x1c-\\x1f]"', '_MARK = r"."', "test_pieces.py::test_parts_have_the_pieces_of_the_whole"),
    Mutation("one place too many in a permutation", "jaxllm/data/permutation.py", "outside &= which >= n", "outside &= which > n", "test_batches.py::test_every_number_comes_once"),
    Mutation("every epoch in the same order", "jaxllm/data/batches.py", "[*seed, int(epoch)]", "[*seed, 0]", "test_data.py::test_a_batch_is_a_pure_function_of_seed_and_step"),
    Mutation("processes draw the same rows", "jaxllm/data/batches.py", "step * batch_size + process * rows", "step * batch_size", "test_batches.py::test_processes_share_a_batch"),
    Mutation("a mixture's sources at the wrong place", "jaxllm/data/mixture.py", "blocks * np.array(self.quotas)[which] + inside", "blocks + inside", "test_batches.py::test_a_mixture_visits_each_sources_windows_once_an_epoch"),
    Mutation("a separator before the first document", "jaxllm/data/preparing.py", "if not documents[split]:", "if False:", "test_shards.py::test_all_documents_are_there_in_order_each_in_one_split"),
    Mutation("the split by the document's place", "jaxllm/data/preparing.py", "hashlib.sha256(first[:DECIDING].encode())", "hashlib.sha256(str(globals().__setitem__('n', globals().get('n', 0) + 1) or n).encode())", "test_shards.py::test_adding_data_moves_no_document"),
    Mutation("progress counts a shard that is not there", "jaxllm/data/preparing.py", "replace_file(out / shard.file, content)", "pass", "test_shards.py::test_all_documents_are_there_in_order_each_in_one_split"),
    Mutation("sha256 of shards not compared", "jaxllm/data/shards.py", "if digest != shard.sha256:", "if False:", "test_shards.py::test_damage_is_noticed"),
    Mutation("a stream that breaks characters", "jaxllm/tokenizers/base.py", "if text := decoder.decode(self.decode_bytes([i])):", "if text := self.decode_bytes([i]).decode(errors='replace'):", "test_exchange.py::test_a_stream_waits_for_a_whole_character"),
    Mutation("equally frequent words by first occurrence", "jaxllm/tokenizers/word.py", "(-counts[word], word))", "-counts[word])", "test_tokenizers.py::test_of_equally_frequent_words_those_stay_that_come_first_in_code_point_order"),
    Mutation("characters in reverse", "jaxllm/tokenizers/char.py", "for part in join(text) for character in part})", "for part in join(text) for character in part}, reverse=True)", "test_tokenizers.py::test_char_round_trip"),
    Mutation("an id more than there are", "jaxllm/tokenizers/base.py", "if not 0 <= i < self.vocab_size:", "if not 0 <= i <= self.vocab_size:", "test_tokenizers.py::test_the_last_id_is_the_size_less_one[char]", "IndexError"),
    Mutation("another fingerprint", "jaxllm/tokenizers/base.py", "sort_keys=True, separators", "separators", "test_exchange.py::test_fingerprints_stay_as_they_are[char]"),
    Mutation("the list of merges not in order", "jaxllm/tokenizers/byte_level.py", "if order != sorted(order) or -1 in order or", "if -1 in order or", "test_exchange.py::test_what_would_give_other_ids_is_refused[merges]"),
    Mutation("a gap in tiktoken's ranks", "jaxllm/tokenizers/exchange.py", "if rank != len(tokens) or not token:", "if not token:", "test_exchange.py::test_damaged_ranks_are_named"),
    Mutation("any file is GPT-2's", "jaxllm/tokenizers/gpt2_files.py", "if not check_hash(content, digest):", "if False:", "test_tokenizers.py::test_gpt2_refuses_other_files", "Error"),
    Mutation("a split that is left out", "jaxllm/tokenizers/patterns.py", '("Removed", True))', '("Removed", False))', "test_patterns.py::test_the_forms_of_hugging_face"),
    Mutation("truncation not refused", "jaxllm/tokenizers/read_tokenizer_json.py", '("truncation", "padding")', '("padding",)', "test_exchange.py::test_what_would_give_other_ids_is_refused[truncation]"),
    Mutation("a space before other parts than said", "jaxllm/tokenizers/sentencepiece.py", '(first or self.prefix != "first")', '(first or self.prefix == "first")', "test_sentencepiece.py::test_what_is_put_before"),
    Mutation("equally frequent pairs by first occurrence", "jaxllm/tokenizers/textbook.py", "key=lambda pair: (-counts[pair], pair)", "key=lambda pair: -counts[pair]", FAST_TRAINER),
    Mutation("special tokens not marked", "jaxllm/tokenizers/vocabulary.py", "' special' if i in special else ''", "''", "test_exchange.py::test_a_vocabulary_to_read"),
    Mutation("no process at all", "jaxllm/tokenizers/workers.py", "if not 1 <= processes <= 1024:", "if not 0 <= processes <= 1024:", "test_pieces.py::test_the_number_of_processes_is_checked[0]", "ValueError"),
    Mutation("no normal form in tokenizer.json", "jaxllm/tokenizers/write_tokenizer_json.py", '{"type": tokenizer.normalization} if tokenizer.normalization else None', "None", "test_tokenizer_files.py::test_a_folder_written_and_read"),
    Mutation("files of a folder in reverse", "jaxllm/data/documents.py", "key=lambda entry: entry.name)", "key=lambda entry: entry.name, reverse=True)", "test_data.py::test_a_file_and_a_folder"),
    Mutation("targets that are the inputs", "jaxllm/data/pairs.py", "ids[positions + 1]", "ids[positions]", "test_data.py::test_pairs_are_windows_and_their_successors"),
    Mutation("a part from the beginning of its row", "jaxllm/data/rows.py", "self.row[self.start + start : self.start + stop]", "self.row[start:stop]", "test_shards.py::test_slices_across_shards"),
    Mutation("a corpus downloaded each time", "jaxllm/data/sources.py", "        if not path.exists():\n            _download", "        if True:\n            _download", "test_data.py::test_a_named_corpus_is_downloaded_once", "InputError: cannot download small"),
    Mutation("a vocabulary smaller than asked for, and no word of it", "jaxllm/tokenizers/bpe.py", "if len(merges) < n_merges:", "if False:", "test_tokenizers.py::test_bpe_says_when_the_text_has_no_more_pairs"),
]  # fmt: skip
