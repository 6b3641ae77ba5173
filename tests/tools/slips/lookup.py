"""Mutations of drafting by prompt lookup, of reading drafts and of its bench."""

from slips.mutation import Mutation, twin

DRAFTED, READ, CACHE = "jaxllm/lookup.py", "jaxllm/fast/lookup.py", "jaxllm/cache.py"
TESTS, BENCH = "model/test_lookup.py", "bench/test_bench_lookup.py"
DRAFTS = f"{TESTS}::test_drafts_follow_the_latest_of_the_longest"
TEXT = f"{TESTS}::test_the_text_is_the_one_without_drafts[gpt2]"
TOGETHER = f"{TESTS}::test_logits_of_tokens_read_together_are_those_of_the_whole_text"
COUNTED = f"{TESTS}::test_a_reading_yields_what_was_drafted_rightly[2]"

MUTATIONS = [
    Mutation("the earliest place is looked up", DRAFTED, "alike * width + columns", "alike * width + width - 1 - columns", DRAFTS),
    Mutation("one token is looked up", DRAFTED, "LONGEST = 3", "LONGEST = 1", DRAFTS),
    Mutation("the twin looks up one token before three", "jaxllm/reference/lookup.py", "(3, 2, 1)", "(1, 2, 3)", DRAFTS),
    Mutation("padding is looked up", DRAFTED, "(columns - back >= start[:, None])", "(columns - back >= 0)", DRAFTS),
    Mutation("a draft beyond the end of the text", DRAFTED, "jnp.arange(n) % (last - place)[:, None]", "jnp.arange(n)", twin("lookup.drafted", 1)),
    Mutation("a token is drawn behind a wrong guess", READ, "(right & (newest - drawn.start < context))", "(newest - drawn.start < context)", TEXT),
    Mutation("a token is drawn behind a guess that is right in another row", READ, "(newest - drawn.start < context)).all()", "(newest - drawn.start < context)).any()", TEXT),
    Mutation("a token is drawn beyond the context", READ, "(right & (newest - drawn.start < context))", "right", TEXT),
    Mutation("each guess refused", READ, "(newest - first <= n)", "(newest == first)", COUNTED),
    Mutation("a document of a wrong guess stays", CACHE, "jnp.where(jnp.arange(self.capacity) < length, self.documents, 0)", "self.documents", f"{TOGETHER}[{{'separator': 5, 'ngrams': 4}}]"),
    Mutation("an n-gram of wrong guesses", CACHE, "dynamic_slice_in_dim(latest, n, before", "dynamic_slice_in_dim(latest, tokens.shape[1], before", f"{TOGETHER}[{{'separator': 5, 'ngrams': 4}}]"),
    Mutation("guesses beyond the context spread NaN", "jaxllm/fast/cached_gpt.py", "jnp.minimum(positions, self.config.context_length - 1)", "positions", f"{TOGETHER}[{{'n_layers': 2}}]"),
    Mutation("a cache with no room for guesses", "jaxllm/fast/generate.py", "capacity += plan.lookup", "capacity += 0", TEXT),
    Mutation("a stream of single tokens", "jaxllm/fast/generate.py", "min(1 + generation.plan.lookup, ", "min(1, ", f"{TESTS}::test_a_stream_gives_the_tokens_of_a_few_readings_at_a_time"),
    Mutation("drafts beside tokens drawn at random", "jaxllm/generate.py", "if lookup and not sampling.greedy:", "if False:", f"{TESTS}::test_what_is_refused[True]", "DID NOT RAISE"),
    Mutation("drafts sampled by default", "train/writer.py", '{"temperature": 0.0} if arguments.lookup else ANSWERS', "ANSWERS", "commands/test_writer.py::test_answers_have_other_defaults"),
    Mutation("the gap of two tokens the wrong way round", "train/bench/departures.py", "of_next[ours[row, token]] - of_next[theirs[row, token]]", "of_next[theirs[row, token]] - of_next[ours[row, token]]", f"{BENCH}::test_where_rows_part"),
    Mutation("any other token is a near-tie", "train/bench/lookup.py", '"near-tie" if close else "differ"', '"near-tie"', f"{BENCH}::test_other_tokens_are_noticed"),
]  # fmt: skip
