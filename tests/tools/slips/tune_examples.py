"""Mutations of what is read from a file of examples, what of it is learned, and how it comes into batches."""

from slips.mutation import Mutation

EXAMPLES, RENDERED = "tune/test_examples.py", "tune/test_rendered.py"
FITTING, BATCHES = "tune/test_fitting.py", "tune/test_tune_batches.py"
DATA, PREVIEW = "tune/test_tune_data.py", "tune/test_preview.py"
LEARNED = f"{RENDERED}::test_answers_are_learned_with_their_end_of_turn_and_nothing_else"
CUT = f"{FITTING}::test_a_cut_takes_the_question_from_the_left"
PACKED = f"{BATCHES}::test_packed_examples_are_documents_with_positions_of_their_own"

MUTATIONS = [
    Mutation("an answer without its end of turn", "train/tune/rendered.py", "end = found[0][0] + len(self.ends[int(found[0][1])])", "end = found[0][0]", LEARNED),
    Mutation("questions learned in the place of answers", "train/tune/rendered.py", "learned = [i % 2 == 1 for i", "learned = [i % 2 == 0 for i", LEARNED),
    Mutation("only the last answer learned", "train/tune/rendered.py", "one.bare, learn_all=True)", "one.bare, learn_all=False)", LEARNED),
    Mutation("all answers of a preference learned", "train/tune/rendered.py", '{"role": "assistant", "content": text}), one.bare, False)', '{"role": "assistant", "content": text}), one.bare, True)', f"{RENDERED}::test_a_preference_is_two_conversations_that_share_their_question"),
    Mutation("a target at its own place", "train/tune/rendered.py", "np.where(self.learned[1:], self.ids[1:], np.int32(-1))", "np.where(self.learned[:-1], self.ids[:-1], np.int32(-1))", f"{RENDERED}::test_targets_are_the_learned_tokens_one_place_earlier"),
    Mutation("the introduction of an answer learned", "train/tune/rendered.py", "messages[:i], add_generation_prompt=True,", "messages[:i], add_generation_prompt=False,", LEARNED),
    Mutation("a template that writes an answer otherwise later", "train/tune/rendered.py", "        _check_prefix(after[:end], whole,", "        _check_prefix(after[:0], whole,", f"{RENDERED}::test_a_template_that_does_not_fit_is_refused[thinks]", "DID NOT RAISE"),
    Mutation("an end token within an answer taken for its end", "train/tune/rendered.py", "if part in self.ends and place > last]", "if part in self.ends and place >= start]", f"{RENDERED}::test_the_end_token_is_the_one_after_the_answer"),
    Mutation("a merge across the beginning of an answer", "train/tune/rendered.py", "if isinstance(part, str) and start < cut < start + len(part)]", "if isinstance(part, str) and start < cut < start]", f"{RENDERED}::test_the_ids_before_an_answer_are_those_that_the_model_is_given"),
    Mutation("a space of SentencePiece's before an answer", "train/tune/rendered.py", "return tokenizer.encode_chunk(part, 1) if isinstance(before, str)", "return tokenizer.encode_parts([part]) if isinstance(before, str)", f"{RENDERED}::test_sentencepiece_puts_no_space_where_an_answer_begins[-always]"),
    Mutation("a mask of everything", "train/tune/rendered.py", "if row.learned[1:].all() and row.label is None:", "if False:", f"{RENDERED}::test_an_answer_to_nothing_is_refused", "DID NOT RAISE"),
    Mutation("special tokens of messages", "jaxllm/pretrained/chat.py", "for own in re.finditer(BY_TEMPLATE, user_mask(text)):", "for own in re.finditer(b\"(?s).+\", user_mask(text)):", LEARNED),
    Mutation("an answer of spaces", "train/tune/examples.py", 'not (content or "").strip()', 'not (content or "")', f"{EXAMPLES}::test_a_wrong_line_is_named[14]", "DID NOT RAISE"),
    Mutation("lines numbered without the blank ones", "jaxllm/data/json_lines.py", "        number += 1\n", "        number += bool(line.strip())\n", f"{EXAMPLES}::test_lines_are_numbered_as_in_the_file"),
    Mutation("the end of an example cut", "train/tune/fitting.py", "ids=np.concatenate([one.ids[:begin], one.ids[begin + removed :]])", "ids=one.ids[: len(one.ids) - removed]", CUT),
    Mutation("an answer learned without its beginning", "train/tune/fitting.py", "int(np.argmin(learned))] = False", "0] = False", CUT),
    Mutation("examples dropped that would fit", "train/tune/fitting.py", "if length(group) <= window], 0,", "if length(group) < window], 0,", f"{FITTING}::test_what_is_too_long_is_refused_cut_or_dropped_and_counted"),
    Mutation("an example where it leaves most room", "train/tune/packing.py", "            room, row = free.pop(place)", "            room, row = free.pop()", "tune/test_packing.py::test_each_example_goes_where_it_leaves_least_room"),
    Mutation("positions that run on from the example before", "train/tune/batches.py", "                    positions[r, text, start:] = np.arange(self.width - start)\n                    start = end", "                    start = end", PACKED),
    Mutation("padding in the document of the last example", "train/tune/batches.py", "documents[r, text, start:] = len(self.rows[number])", "documents[r, text, start:] = len(self.rows[number]) - 1", PACKED),
    Mutation("rows drawn with replacement", "train/tune/batches.py", "numbers[here] = permute(places[here], n, keys)", "numbers[here] = np.random.default_rng(keys).integers(n, size=here.sum())", f"{BATCHES}::test_an_epoch_visits_each_row_once"),
    Mutation("the same order in each epoch", "train/tune/batches.py", "np.random.SeedSequence([seed, int(epoch)])", "np.random.SeedSequence([seed, 0])", f"{BATCHES}::test_an_epoch_visits_each_row_once"),
    Mutation("the last batch filled with learned rows", "train/tune/batches.py", "np.where(numbers < n, numbers, NO_ROW)", "numbers % n", f"{BATCHES}::test_evaluation_is_in_the_order_of_the_file_and_filled_at_its_end"),
    Mutation("an unknown reference of 0", "train/tune/batches.py", "np.full((len(self.examples), 2), np.nan, np.float32)", "np.full((len(self.examples), 2), 0, np.float32)", f"{BATCHES}::test_a_pair_has_its_reference"),
    Mutation("training examples of one label", "train/tune/data.py", "        _check_labels(source, train, names)", "        pass", f"{DATA}::test_labels_are_numbered_in_their_order", "DID NOT RAISE"),
    Mutation("examples cut in silence", "train/tune/data.py", "        if one.cut or one.dropped:", "        if one.dropped > 1:", f"{DATA}::test_the_notes_count_examples_labels_and_lengths"),
    Mutation("what is learned shown as what is not", "train/tune/preview.py", "(0 if is_learned else None)", "(None if is_learned else 0)", f"{PREVIEW}::test_on_a_terminal_what_is_learned_is_coloured"),
]  # fmt: skip
