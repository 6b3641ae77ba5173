"""Mutations of `train/tasks` and its command."""

from slips.mutation import Mutation

LIKELIHOOD, MODEL, CHOICES = "tasks/test_likelihood.py", "tasks/test_task_model.py", "tasks/test_choices.py"
COMMAND = "commands/test_evaluate_choices.py"

MUTATIONS = [
    Mutation("white space left at the end of a context", "train/tasks/likelihood.py", "kept = context.rstrip()", "kept = context", f"{LIKELIHOOD}::test_both_texts_are_encoded_as_one"),
    Mutation("a continuation encoded by itself", "train/tasks/likelihood.py", "tuple(encode(context + continuation))[len(ids) :]", "tuple(encode(context[len(kept) :] + continuation))", f"{LIKELIHOOD}::test_both_texts_are_encoded_as_one"),
    Mutation("a long text cut at the right", "train/tasks/likelihood.py", "[-context_length - 1 : -1]", "[:-1][:context_length]", f"{LIKELIHOOD}::test_likelihoods_are_those_of_the_reference[1000]"),
    Mutation("the token before a continuation scored too", "train/tasks/likelihood.py", "slice(len(ids) - len(pairs[i].continuation), len(ids))", "slice(max(0, len(ids) - len(pairs[i].continuation) - 1), len(ids))", f"{LIKELIHOOD}::test_likelihoods_are_those_of_the_reference[1000]"),
    Mutation("all choices of a row scored as the first", "train/tasks/likelihood.py", "places[i] = row, k, slice", "places[i] = row, 0, slice", f"{LIKELIHOOD}::test_likelihoods_are_those_of_the_reference[40]"),
    Mutation("greedy where one token is", "train/tasks/likelihood.py", "bool(best[here].all())", "bool(best[here].any())", f"{LIKELIHOOD}::test_what_the_model_would_write_is_greedy"),
    Mutation("batches of more tokens than asked", "train/tasks/likelihood.py", "max(1, most_tokens // length)", "max(1, most_tokens)", f"{LIKELIHOOD}::test_batches_of_a_length_have_one_shape_and_no_more_tokens_than_asked"),
    Mutation("the space before a choice counted", "train/tasks/choices.py", "rule.divisor(text.lstrip(), n)", "rule.divisor(text, n)", f"{CHOICES}::test_each_rule_divides_by_its_own_length"),
    Mutation("characters counted as bytes", "train/tasks/choices.py", "len(text.encode())", "len(text)", f"{CHOICES}::test_each_rule_divides_by_its_own_length"),
    Mutation("the error of a sample, not of a mean", "train/tasks/choices.py", "right.std(ddof=1)) / math.sqrt(n)", "right.std(ddof=1))", f"{CHOICES}::test_accuracy_has_the_error_of_a_mean"),
    Mutation("an answer that counts from 1", "train/tasks/choices.py", "not 0 <= answer < len(choices)", "not 0 < answer <= len(choices)", f"{CHOICES}::test_questions_are_read_in_order", "InputError"),
    Mutation("true as a number of an answer", "train/tasks/choices.py", "type(answer) is not int", "not isinstance(answer, int)", f"{CHOICES}::test_a_wrong_line_is_named", "DID NOT RAISE"),
    Mutation("a begin token twice", "train/tasks/model.py", "(begin is None and not has_one)", "begin is None", f"{MODEL}::test_texts_get_the_begin_token_once"),
    Mutation("names of special tokens read as text", "train/tasks/model.py", "tokenizer.encode(text, tokenizer.special_tokens)", "tokenizer.encode(text)", f"{MODEL}::test_texts_get_the_begin_token_once"),
    Mutation("text up to the last stop string", "train/tasks/model.py", "text.partition(stop)[0]", "text.rpartition(stop)[0]", f"{MODEL}::test_texts_are_what_a_plain_loop_writes[True]"),
    Mutation("text behind the end token", "train/tasks/model.py", "for i in ids[:end] if", "for i in ids if", f"{MODEL}::test_a_text_ends_before_its_end_token_and_has_no_special_tokens"),
    Mutation("queries cut and not counted", "train/commands/evaluate_choices.py", "if n_cut := sum(one.n_cut > 0 for one in scored):", "if n_cut := 0:", f"{COMMAND}::test_the_command_prints_and_writes"),
    Mutation("choices without the begin token", "train/commands/evaluate_choices.py", "completions(questions, model.encode,", "completions(questions, model.run.tokenizer.encode,", f"{COMMAND}::test_the_command_prints_and_writes"),
]  # fmt: skip
