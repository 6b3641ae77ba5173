"""Breaks the code in many small ways and shows that a test catches each: `python tests/mutate.py [WORD ...]`.

A test that cannot fail proves nothing; an existing suite has let the sign of AdamW's decay pass
(harvard-edge/cs249r_book#2058). mutmut and cosmic-ray break every operator and take hours; these are the slips that
people make, each with the one test that must notice. The tests are first run on the code as it is. Each run is a fork of this
process, with JAX loaded but not started, in a copy of the project. Exit 1 if one survives.
"""

import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """What is broken, where, the text that is replaced (it must stand there once), by what, and who must notice."""

    what: str
    file: str
    old: str
    new: str
    test: str


def twin(name: str, case: int = 0) -> str:
    return f"test_twins.py::test_agrees_with_twin[{name}-{case}-float64-jit]"


def module(name: str) -> str:
    return f"test_twins.py::test_module_agrees_with_twin[{name}-float64]"


OPTIMIZER = "test_step.py::test_the_optimizer_agrees_with_its_twin"
STEPS = "test_step.py::test_steps_agree_with_the_reference"
MODEL = "test_compare_model.py::test_the_model_agrees_and_every_intermediate_is_there"
GREEDY = "test_generate.py::test_greedy_continues_as_the_reference_does[gpt2]"
WITHIN = "test_within_documents.py::test_the_model_agrees_with_the_reference"
CHUNKS = "test_causal.py::test_every_plan_gives_the_same_numbers[25-0]"
NOT_FINITE = "test_finite.py::test_such_a_step_is_counted_and_changes_nothing_else"
FAST_TRAINER = "test_tokenizers.py::test_bpe_fast_trainer_learns_the_textbooks_merges"
MERGES = "jaxllm/tokenizers/merges.py"
LAYERS, EMBEDDINGS, ATTENTION = "jaxllm/layers.py", "jaxllm/embeddings.py", "jaxllm/attention.py"
CAUSAL = "jaxllm/causal.py"
ROTARY = "jaxllm/rotary.py"
PLACES = "jaxllm/pretrained/places.py"
GPT, LOSS, SAMPLING, STEP = "jaxllm/gpt.py", "jaxllm/loss.py", "jaxllm/sampling.py", "train/step.py"

MUTATIONS = [
    Mutation("bias subtracted", LAYERS, "else y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)", "else y - jnp.broadcast_to(bias.astype(y.dtype), y.shape)", twin("layers.linear", 1)),
    Mutation("gradient of the kernel off by 1e-9", LAYERS, 'jnp.einsum("...d,...f->df", x, dy)', '(1 + 1e-9) * jnp.einsum("...d,...f->df", x, dy)', twin("layers.linear")),
    Mutation("gradient of x off by 1e-9", LAYERS, "return dy @ kernel.T", "return (1 + 1e-9) * dy @ kernel.T", twin("layers.linear")),
    Mutation("epsilon 1e-6", LAYERS, "EPSILON = 1e-5", "EPSILON = 1e-6", twin("layers.layer_norm")),
    Mutation("unbiased variance", LAYERS, "jnp.square(z).mean(-1, keepdims=True)", "jnp.square(z).sum(-1, keepdims=True) / (x.shape[-1] - 1)", twin("layers.layer_norm")),
    Mutation("epsilon outside the root", LAYERS, "jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + epsilon)", "1 / (jnp.sqrt(jnp.square(z).mean(-1, keepdims=True)) + epsilon)", twin("layers.layer_norm")),
    Mutation("norm without its scale", LAYERS, "y = normal * jnp.broadcast_to(scale.astype(normal.dtype), x.shape)", "y = normal", twin("layers.layer_norm")),
    Mutation("RMS norm takes off the mean", LAYERS, "_norm(x, scale, bias, epsilon, False)", "_norm(x, scale, bias, epsilon, True)", twin("layers.rms_norm")),
    Mutation("what shifts x not taken off the norm's gradient", LAYERS, "(g - g.mean(-1, keepdims=True) if centre else g)", "g", twin("layers.layer_norm")),
    Mutation("what stretches x not taken off the norm's gradient", LAYERS, "if centre else g) - along)", "if centre else g))", twin("layers.rms_norm")),
    Mutation("slope of the tanh GELU without its second term", LAYERS, "return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du", "return 0.5 * (1 + t)", twin("layers.gelu_tanh")),
    Mutation("slope of the exact GELU without its second term", LAYERS, " + x * jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5", "", twin("layers.gelu")),
    Mutation("GELU's constant in its last digit", LAYERS, "0.044715 * x * x * x))", "0.044716 * x * x * x))", twin("layers.gelu_tanh")),
    Mutation("exact GELU without sqrt(2)", LAYERS, "return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))", "return 0.5 * x * (1 + jax.lax.erf(x))", twin("layers.gelu")),
    Mutation("the tanh GELU under the exact one's name", LAYERS, '"gelu": gelu,', '"gelu": gelu_tanh,', module("MLP exact gelu")),
    Mutation("ReLU that leaks", LAYERS, "return jnp.maximum(x, 0)", "return jnp.maximum(x, 1e-6 * x)", twin("layers.relu")),
    Mutation("softmax over the wrong axis", LAYERS, "return z / z.sum(-1, keepdims=True)", "return z / z.sum(-2, keepdims=True)", twin("layers.softmax")),
    Mutation("dropout without 1 / (1 - rate)", LAYERS, "return x * keep.astype(x.dtype)", "return x * (keep > 0).astype(x.dtype)", twin("layers.dropout")),
    Mutation("negative tokens wrap around", EMBEDDINGS, "jnp.where(tokens < 0, table.shape[0], tokens)", "tokens", twin("embeddings.token_embedding", 1)),
    Mutation("gradient of the head stopped at the table", EMBEDDINGS, "return token_logits(self.table, x)", "from jax.lax import stop_gradient\n        return token_logits(stop_gradient(self.table), x)", MODEL),
    Mutation("the last positions instead of the first", EMBEDDINGS, "return table[:length]", "return table[-length:]", twin("embeddings.learned_positions")),
    Mutation("sinusoids with base 1,000", EMBEDDINGS, "jnp.log(10000.0)", "jnp.log(1000.0)", twin("embeddings.sinusoidal_positions")),
    Mutation("cosine before sine", EMBEDDINGS, "jnp.stack([jnp.sin(angle), jnp.cos(angle)]", "jnp.stack([jnp.cos(angle), jnp.sin(angle)]", twin("embeddings.sinusoidal_positions")),
    Mutation("mask off by one: sees the next token", ATTENTION, "jnp.tril(jnp.ones((length, length), bool))", "jnp.tril(jnp.ones((length, length), bool), 1)", twin("attention.causal_mask", 1)),
    Mutation("mask off by one: does not see itself", ATTENTION, "jnp.tril(jnp.ones((length, length), bool))", "jnp.tril(jnp.ones((length, length), bool), -1)", twin("attention.causal_mask", 1)),
    Mutation("attention without its scale", ATTENTION, " * q.shape[-1] ** -0.5", "", twin("attention.attention_weights")),
    Mutation("attention scaled by the length", ATTENTION, " * q.shape[-1] ** -0.5", " * q.shape[-2] ** -0.5", twin("attention.attention_weights")),
    Mutation("masked scores at 0", ATTENTION, "jnp.finfo(dtype).min)", "0.0)", twin("attention.attention_weights", 1)),
    Mutation("dropout of attention weights forgotten", ATTENTION, "(weights if keep is None else dropout(weights, keep))", "(weights)", twin("attention.scaled_dot_product_attention", 2)),
    Mutation("heads merged in another order", ATTENTION, "    x = jnp.swapaxes(x, -2, -3)\n    return", "    return", twin("attention.merge_heads")),
    Mutation("key heads dealt out in turn", ATTENTION, "jnp.repeat(x, n_heads // x.shape[-3], axis=-3)", "jnp.concatenate([x] * (n_heads // x.shape[-3]), axis=-3)", twin("attention.repeat_heads")),
    Mutation("multi-head attention never masked", ATTENTION, "if self.causal and keep is None:", "mask = None\n        if False:", module("MultiHeadAttention")),
    Mutation("a chunk's queries numbered from 0", CAUSAL, "s <= start + t", "s <= t", CHUNKS),
    Mutation("chunks see the next token", CAUSAL, "s <= start + t", "s <= start + t + 1", twin("causal.causal_attention")),
    Mutation("documents forgotten in a chunk", CAUSAL, "if documents:\n        own", "if False:\n        own", twin("causal.causal_attention", 4)),
    Mutation("documents handed to cuDNN, which forgets them", CAUSAL, "if documents is None and window is None and attention_path", "if attention_path", "test_causal.py::test_attention_says_which_path_it_takes"),
    Mutation("documents of the keys and not of the rows", CAUSAL, "(own == jnp.swapaxes(theirs, -2, -1))", "(theirs[:, : own.shape[1]] == jnp.swapaxes(theirs, -2, -1))", twin("causal.causal_attention", 3)),
    Mutation("a row's documents for its neighbour's heads", CAUSAL, "jnp.broadcast_to(documents, q.shape[:-1])[..., None]", "jnp.roll(jnp.broadcast_to(documents, q.shape[:-1]), 1, 0)[..., None]", WITHIN),
    Mutation("a document begins after its separator", ATTENTION, "jnp.cumsum(tokens == separator, axis=-1, dtype=jnp.int32)", "jnp.cumsum(tokens == separator, axis=-1, dtype=jnp.int32) - (tokens == separator)", twin("attention.document_numbers")),
    Mutation("the mask of documents looks ahead", ATTENTION, "same & jnp.broadcast_to(causal_mask(documents.shape[-1], window), same.shape)", "same", twin("attention.document_mask")),
    Mutation("documents not told to the blocks", GPT, "(x, documents)\n", "(x)\n", WITHIN),
    Mutation("gradient of the scores not centred", CAUSAL, "p * (dp - shift) * scale", "p * dp * scale", twin("causal.causal_attention")),
    Mutation("the scale forgotten on the way back", CAUSAL, "(dp - shift) * scale", "(dp - shift)", twin("causal.causal_attention")),
    Mutation("only the first chunk's keys get a gradient", CAUSAL, "reduce(jnp.add, [_lengthened(x, q.shape[-2]) for x in parts])", "_lengthened(parts[0], q.shape[-2])", twin("causal.causal_attention", 1)),
    Mutation("first residual forgotten", GPT, "x = x + Dropout(c.dropout)(y)", "x = Dropout(c.dropout)(y)", MODEL),
    Mutation("post-norm", GPT, "mlp(norm_2(x))", "norm_2(mlp(x))", MODEL),
    Mutation("positions forgotten", GPT, "x = PositionEmbedding(", "PositionEmbedding(", MODEL),
    Mutation("final norm's result not used", GPT, "x = Norm(c.norm, c.use_bias, c.norm_epsilon, name=\"norm_final\")(x)", "Norm(c.norm, c.use_bias, c.norm_epsilon, name=\"norm_final\")(x)", MODEL),
    Mutation("untied head where a tied one was asked for", GPT, "if not c.tie_embeddings or", "if c.tie_embeddings or", MODEL),
    Mutation("loss divided by the number of tokens, not of weights", LOSS, "/ weights.sum()", "/ weights.size", twin("loss.cross_entropy", 1)),
    Mutation("the lens reads a stream that is not normed", "jaxllm/lens.py", "x = NORMS[config.norm](x, norm[\"scale\"], norm.get(\"bias\"), config.norm_epsilon)", "pass", twin("lens.logit_lens")),
    Mutation("loss in bits", LOSS, "return jnp.log(jnp.exp(z).sum(-1)) - _entry(z, targets)", "return (jnp.log(jnp.exp(z).sum(-1)) - _entry(z, targets)) / jnp.log(2.0)", twin("loss.token_losses")),
    Mutation("weights forgotten in the gradient of the head's loss", LOSS, "total - came) * weights[:, None])", "total - came))", twin("loss.head_loss", 1)),
    Mutation("the target's logit forgotten in the gradient of the head's loss", LOSS, "total - came)", "total)", twin("loss.head_loss")),
    Mutation("only the last chunk's gradient of the table counts", LOSS, "dpart + jnp", "0 * dpart + jnp", "test_causal.py::test_a_loss_in_chunks_is_the_loss[3-21]"),
    Mutation("a part of the vocabulary takes the target for its own", LOSS, "one_hot(targets - start", "one_hot(targets", "test_causal.py::test_a_loss_in_chunks_is_the_loss[3-21]"),
    Mutation("turned backwards", ROTARY, "a * cos - b * sin, a * sin + b * cos", "a * cos + b * sin, b * cos - a * sin", twin("rotary.rotate")),
    Mutation("the other pairs", ROTARY, "axis = -1 if interleaved else -2", "axis = -2 if interleaved else -1", twin("rotary.rotate")),
    Mutation("slowed where it should not be", ROTARY, "(share + (1 - share) / factor)", "(1 - share + share / factor)", twin("rotary.rotary_frequencies", 1)),
    Mutation("a window one too wide", ATTENTION, "seen & ~jnp.tril(seen, -window)", "seen & ~jnp.tril(seen, -window - 1)", twin("attention.causal_mask", 2)),
    Mutation("a window one too wide, in chunks", CAUSAL, "s > start + t - window", "s >= start + t - window", twin("causal.causal_attention", 6)),
    Mutation("gate and up changed places", LAYERS, "GATED[self.activation](gate, up)", "GATED[self.activation](up, gate)", module("MLP swiglu")),
    Mutation("a penalty for what was not said", SAMPLING, "jnp.where(seen, jnp.where", "jnp.where(~seen, jnp.where", twin("sampling.repetition_penalty")),
    Mutation("int8 with the scale of another row", "jaxllm/packed.py", "product * row_scale *", "product * row_scale[::-1] *", "test_packed.py::test_quantised_functions_agree_with_their_twins[shape2]"),
    Mutation("padding is seen", "jaxllm/cache.py", "slots[None] >= self.visible[:, None]", "slots[None] >= 0 * self.visible[:, None]", GREEDY),
    Mutation("positions count the padding", "jaxllm/cache.py", "positions = slots - self.start[:, None]", "positions = slots + 0 * self.start[:, None]", GREEDY),
    Mutation("a full context keeps one token more", "jaxllm/generate.py", "column - context // 2", "column - context // 2 - 1", GREEDY),
    Mutation("top-k keeps one more", SAMPLING, "min(k, logits.shape[-1])", "min(k + 1, logits.shape[-1])", twin("sampling.top_k", 1)),
    Mutation("top-p leaves out the token that reaches p", SAMPLING, "jnp.where(reached - probability < p,", "jnp.where(reached < p,", twin("sampling.top_p")),
    Mutation("sign of weight decay", STEP, "weight_decay=config.weight_decay", "weight_decay=-config.weight_decay", OPTIMIZER),
    Mutation("decay of vectors too", STEP, "p.ndim >= 2", "p.ndim >= 1", OPTIMIZER),
    Mutation("betas swapped", STEP, "b1=config.beta1,\n            b2=config.beta2,", "b1=config.beta2,\n            b2=config.beta1,", OPTIMIZER),
    Mutation("Adam's epsilon 1e-6", STEP, "weight_decay=config.weight_decay,", "weight_decay=config.weight_decay, eps=1e-6,", OPTIMIZER),
    Mutation("bias correction dropped", STEP, "    return optax.chain(", "    optax.tree.bias_correction = lambda moment, decay, count: moment\n    return optax.chain(", OPTIMIZER),
    Mutation("no clipping", STEP, "optax.clip_by_global_norm(config.clip_norm)", "optax.identity()", OPTIMIZER),
    Mutation("clipping of each number, not of the norm", STEP, "optax.clip_by_global_norm(config.clip_norm)", "optax.clip(config.clip_norm)", OPTIMIZER),
    Mutation("warm-up from 0", STEP, "highest * (now + 1)", "highest * now", OPTIMIZER),
    Mutation("cosine down to 0", STEP, "lowest + (highest - lowest)", "(highest - lowest)", OPTIMIZER),
    Mutation("only the last micro-batch counts", STEP, "return jax.tree.map(jnp.add, total, jax.value_and_grad(share)(state.params, *micro)), None", "return jax.value_and_grad(share)(state.params, *micro), None", STEPS),
    Mutation("gradient divided by windows, not tokens", STEP, "/ targets.size", "/ len(targets)", STEPS),
    Mutation("norm of the update reported as the gradient's", STEP, "optax.tree.norm(grads)", "optax.tree.norm(updates)", STEPS),
    Mutation("steps not counted", STEP, "TrainState(state.step + 1,", "TrainState(state.step,", STEPS),
    Mutation("pairs of a doubled token counted twice", MERGES, "count - doubled if x == a else count", "count", FAST_TRAINER),
    Mutation("a token that another has taken in still stands", MERGES, "ids[middle] = INSIDE", "pass", FAST_TRAINER),
    Mutation("text cut within a run of white space", "jaxllm/tokenizers/parts.py", '_MARK = r"[^\\s\\x1c-\\x1f]"', '_MARK = r"."', "test_pieces.py::test_parts_have_the_pieces_of_the_whole"),
    Mutation("one place too many in a permutation", "jaxllm/data/permutation.py", "outside &= which >= n", "outside &= which > n", "test_batches.py::test_every_number_comes_once"),
    Mutation("every epoch in the same order", "jaxllm/data/batches.py", "[*seed, int(epoch)]", "[*seed, 0]", "test_data.py::test_a_batch_is_a_pure_function_of_seed_and_step"),
    Mutation("processes draw the same rows", "jaxllm/data/batches.py", "step * batch_size + process * rows", "step * batch_size", "test_batches.py::test_processes_share_a_batch"),
    Mutation("a mixture's sources at the wrong place", "jaxllm/data/mixture.py", "blocks * np.array(self.quotas)[which] + inside", "blocks + inside", "test_batches.py::test_a_mixture_visits_each_sources_windows_once_an_epoch"),
    Mutation("a separator before the first document", "jaxllm/data/preparing.py", "if not documents[split]:", "if False:", "test_shards.py::test_all_documents_are_there_in_order_each_in_one_split"),
    Mutation("the split by the document's place", "jaxllm/data/preparing.py", "hashlib.sha256(first[:DECIDING].encode())", "hashlib.sha256(str(globals().__setitem__('n', globals().get('n', 0) + 1) or n).encode())", "test_shards.py::test_adding_data_moves_no_document"),
    Mutation("progress counts a shard that is not there", "jaxllm/data/preparing.py", "replace_file(out / shard.file, content)", "pass", "test_shards.py::test_all_documents_are_there_in_order_each_in_one_split"),
    Mutation("sha256 of shards not compared", "jaxllm/data/shards.py", "if digest != shard.sha256:", "if False:", "test_shards.py::test_damage_is_noticed"),
    Mutation("a stream that breaks characters", "jaxllm/tokenizers/base.py", "if text := decoder.decode(self.decode_bytes([i])):", "if text := self.decode_bytes([i]).decode(errors='replace'):", "test_exchange.py::test_a_stream_waits_for_a_whole_character"),
    Mutation("a cache with no room for what a row grows by", "jaxllm/generate.py", "context + max(prompt, context - context // 2) if", "context + prompt if", "test_generate.py::test_a_context_longer_than_its_prompts_is_outgrown_twice[None]"),
    Mutation("the rows of GGUF's Llamas left interleaved", PLACES, "if layout.interleaved and any(", "if layout.interleaved and not any(", "test_pretrained_gguf.py::test_a_gguf_file_is_the_folder[float32-llama]"),
    Mutation("interleaved heads go out as they are", PLACES, 'if config.position == "rotary_interleaved" and any', 'if config.position == "rotary_interleaved" and not any', "test_pretrained.py::test_interleaved_positions_go_out_half_split"),
    Mutation("Gemma's norms without their 1", PLACES, "x = x + np.asarray(layout.offset, x.dtype)", "pass", "test_pretrained.py::test_what_goes_out_comes_in[GemmaForCausalLM]"),
    Mutation("shapes of tensors not compared", PLACES, "if wanted.get(name, shape) != shape", "if False", "test_pretrained.py::test_all_that_does_not_fit_is_said_at_once"),
    Mutation("another head taken for the table", "jaxllm/pretrained/loading.py", "or not np.array_equal(self.read(head), self.read(table))", "", "test_pretrained.py::test_a_tied_table_may_be_there_twice_or_as_the_head"),
    Mutation("Q6_K's zero one lower", "jaxllm/pretrained/quantised.py", "return _signed(q, 32), _float32(x", "return _signed(q, 31), _float32(x", "test_quantised.py::test_number_by_number[Q6_K]"),
    Mutation("sha256 of a checkpoint's files not compared", "train/manifest.py", 'return "" if digest == stored.sha256 else', 'return "" if digest else', "test_checkpoint.py::test_a_flipped_bit_anywhere_is_noticed_and_named"),
    Mutation("sha256 of the manifest itself not compared", "train/manifest.py", "if _encode(manifest) != raw:", "if False:", "test_checkpoint.py::test_a_flipped_bit_anywhere_is_noticed_and_named"),
    Mutation("arrays read not compared", "train/manifest.py", "if read.get(name) != manifest.arrays.get(name):", "if False:", "test_checkpoint.py::test_an_array_that_is_read_as_another_is_noticed"),
    Mutation("a manifest may lead outside", "train/manifest.py", 'or ".." in PurePosixPath(name).parts', "", "test_checkpoint.py::test_a_manifest_of_another_step_or_that_leads_outside_is_refused"),
    Mutation("the best checkpoint goes with the old", "train/checkpoint.py", " - set(best)", "", "test_checkpoint.py::test_the_newest_stay_and_the_best"),
    Mutation("of equal losses the older is the best", "train/checkpoint.py", "return min(losses, key=lambda step: (losses[step], -step), default=None)", "return min(losses, key=lambda step: losses[step], default=None)", "test_checkpoint.py::test_of_equal_losses_the_newer_is_the_best"),
    Mutation("a step that is not finite applied", "train/finite.py", "jnp.where(finite, n, o)", "jnp.where(True, n, o)", NOT_FINITE),
    Mutation("a step that is not finite not counted by the schedule", "train/finite.py", "lambda n, o: n if is_count(n) else", "lambda n, o:", NOT_FINITE),
    Mutation("the last part that is not finite, not the first", "train/finite.py", "wrong.argmax()", "len(wrong) - 1 - wrong[::-1].argmax()", "test_finite.py::test_the_first_part_backward_is_found[nan]"),
    Mutation("a signal not heeded", "train/loop.py", "ending = bool(stop)", "ending = False", "test_resume.py::test_a_run_ended_by_signals_goes_on_to_the_same_bits[float32-(7,)]"),
    Mutation("metrics beyond the checkpoint kept", "train/report.py", 'if record["step"] <= last_step]', "]", "test_train.py::test_a_run_that_broke_off_resumes_to_the_same_result"),
]  # fmt: skip


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(w in m.what for w in words)]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="jaxllm-mutate-") as work:
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": f"{work}/compiled",  # what a mutation leaves alone compiles once
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        load_what_is_heavy()
        return check(chosen, Path(work), start)


def check(chosen: list[Mutation], work: Path, start: float) -> int:
    tests, cores = list(dict.fromkeys(m.test for m in chosen)), os.cpu_count() or 1
    untouched = [(None, tests[i::cores]) for i in range(cores) if tests[i::cores]]
    for _, code, output in run_all(untouched, work):
        if code != 0:
            print(f"a test fails on the code as it is:\n{output}")
            return 1
    survivors = 0
    for mutation, code, output in run_all([(m, [m.test]) for m in chosen], work):
        assert mutation is not None
        caught = code == 1  # pytest: tests were run and failed; anything else is no verdict
        survivors += not caught
        print(f"{'caught ' if caught else 'MISSED '} {mutation.what} ({mutation.test})", flush=True)
        if not caught:
            print(f"pytest exit code {code}:\n{output}")
    seconds = time.perf_counter() - start
    print(f"{len(chosen) - survivors} of {len(chosen)} mutations caught, in {seconds:.0f} s")
    return 1 if survivors else 0


def load_what_is_heavy() -> None:
    """So that each fork has it; not jaxllm and train, which a mutation may change, and no device."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of what is compiled once, to see one fault
    import flax.linen
    import hypothesis
    import jax
    import optax
    import orbax.checkpoint
    import pytest

    assert all((flax.linen, hypothesis, jax, optax, orbax.checkpoint, pytest))


def run_all(jobs: list[tuple[Mutation | None, list[str]]], work: Path) -> Iterator[tuple[Mutation | None, int, str]]:
    """Tests on a copy of the project with one mutation or none, in a process each; as many at once as there are cores."""
    running: dict[int, tuple[Mutation | None, Path]] = {}
    waiting = list(jobs)
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            mutation, tests = waiting.pop(0)
            folder = Path(tempfile.mkdtemp(dir=work))
            copy(mutation, folder)
            running[fork(tests, folder)] = mutation, folder
        child, status = os.wait()
        mutation, folder = running.pop(child)
        yield mutation, os.waitstatus_to_exitcode(status), (folder / "output").read_text(errors="replace")
        shutil.rmtree(folder)


def copy(mutation: Mutation | None, folder: Path) -> None:
    """A copy of the project, with the one change."""
    for name in ("jaxllm", "train", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    if mutation is not None:
        file = folder / mutation.file
        text = file.read_text(encoding="utf-8")
        if text.count(mutation.old) != 1:
            raise SystemExit(
                f"{mutation.what}: {mutation.old!r} stands {text.count(mutation.old)} times in {mutation.file}."
            )
        file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def fork(tests: list[str], folder: Path) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forks; its threads have not been started
        child = os.fork()
    if child:
        return child
    code = 99
    try:
        with into(folder / "output"):
            import pytest

            os.chdir(folder)
            sys.path.insert(0, str(folder))
            paths = [f"tests/{test}" for test in tests]
            code = int(pytest.main(["-n", "0", "--assert=plain", "-p", "no:cacheprovider", *paths]))
    finally:
        os._exit(code)


@contextmanager
def into(file: Path) -> Iterator[None]:
    """Standard output and error of this process, also of what is not Python, into a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        yield
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
