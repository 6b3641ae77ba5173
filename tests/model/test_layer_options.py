"""Options of the block and of its layers: where norms are, biases, local and global layers, layers without positions.

The numbers are compared with the reference in test_gpt.py, with transformers in tests/pretrained.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held import SOFT_CAP
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPTConfig, InputError
from jaxllm.cache import Cache
from jaxllm.config import Rotary
from jaxllm.fast.cached_gpt import CachedGPT
from jaxllm.gpt import parameter_shapes

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]
LOCAL = replace(TINY, n_layers=4, position="rotary", sliding_window=2, layer_pattern="LLG")
FAMILIES = ("qwen 2", "smollm 3", "olmo 2", "gemma 3", "neox", "neo")


@pytest.mark.parametrize("name", [
    *(pytest.param(name, marks=pytest.mark.newest) for name in FAMILIES if name != "gemma 3"), "gemma 3",
])  # fmt: skip
def test_cached_logits_are_the_uncached_ones(name: str) -> None:
    """A prompt of five tokens, then one by one; two rows, the second of which begins later. Within 1e-5, float32."""
    config = replace(TINY, **VARIANTS[name])
    model, params = random_gpt(config)
    tokens, starts = random_tokens(config, 2), np.array([0, 2])
    whole = model.apply({"params": params}, tokens)
    rows = np.stack([tokens[0], np.concatenate([np.zeros(2, np.int32), tokens[1, :6]])])
    read = jax.jit(partial(CachedGPT(config).apply, {"params": params}))
    logits, cache = read(rows[:, :5], Cache.empty(config, jnp.asarray(starts), 8))
    for slot in range(5, 9):
        want = np.stack([whole[i, slot - 1 - start] for i, start in enumerate(starts)])
        np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=f"slot {slot}")
        if slot < 8:
            logits, cache = read(rows[:, slot : slot + 1], cache)


def test_the_config_of_a_layer() -> None:
    assert TINY.of_layer(5) is TINY
    local, second, alone, again = (LOCAL.of_layer(i) for i in range(4))
    assert local == second == again == replace(LOCAL, layer_pattern=None)
    assert alone == replace(LOCAL, layer_pattern=None, sliding_window=None)
    bases = replace(LOCAL, rope_local_base=5.0, rope_base=7.0, rope_factor=4.0)
    assert [(c.rope_base, c.rope_factor) for c in map(bases.of_layer, range(3))] == [(5.0, 1.0), (5.0, 1.0), (7.0, 4.0)]
    scaled = replace(bases, rope_scaling="yarn", rope_attention_factor=1.3)
    assert scaled.of_layer(0).rotary == Rotary(5.0, scaling="yarn", high_frequency=32.0)
    assert scaled.of_layer(2).rotary == scaled.rotary
    rotated = replace(TINY, position="rotary", rotary_pattern="RN")
    assert [rotated.of_layer(i).rotary is None for i in range(3)] == [False, True, False]


def test_yarn_scales_queries_and_keys_by_the_growth_of_the_context() -> None:
    """1 + ln(s) / 10 (Peng et al. 2023, equation 22)."""
    rotary = replace(TINY, position="rotary", rope_scaling="yarn", rope_factor=float(np.e)).rotary
    assert rotary is not None and abs(rotary.scale - 1.1) < 1e-15


def test_which_maps_have_biases() -> None:
    def biases(**options: Any) -> set[str]:
        shapes = parameter_shapes(replace(TINY, n_layers=1, **options))
        return {path.split("/")[-2] for path in shapes if path.endswith("/bias")} - {"norm_1", "norm_2", "norm_final"}

    assert biases(use_bias=False, qkv_bias=True) == {"query", "key", "value"}
    assert biases(qkv_bias=False) == {"output", "up", "down"} == biases() - {"query", "key", "value"}


def test_which_norms_queries_and_keys_have() -> None:
    """One for all heads, or one that each head uses."""
    for kind, widths in (("whole", (8, 4)), (True, (4, 4))):
        shapes = parameter_shapes(replace(TINY, n_layers=1, n_kv_heads=1, qk_norm=kind))
        for name, width in zip(("query", "key"), widths, strict=True):
            assert shapes[f"block_0/attention/{name}_norm/scale"] == (width,)


@pytest.mark.parametrize(("options", "words"), [
    ({"layer_pattern": "LG"}, "whose local layers \\(L\\) attend within a window; give model.sliding_window"),
    ({"layer_pattern": "LXG", "sliding_window": 2}, "model.layer_pattern is 'LXG', but it must be a string matching"),
    ({"rope_local_base": 5.0, "position": "rotary"}, "model.rope_local_base is 5.0, .* of which there are none"),
    ({"rotary_pattern": "RN"}, "model.rotary_pattern is 'RN', but model.position is learned"),
    ({"rotary_fraction": 0.75, "position": "rotary"}, "a head is 4 wide, of which 3 features are rotated"),
    ({"score_softcap": 5.0, "score": SOFT_CAP}, "model.score_softcap is 5.0, but model.score = "),
    ({"logits_softcap": 5.0, "logits": jnp.tanh}, "model.logits_softcap is 5.0, but model.logits = "),
    ({"qk_norm": "some"}, "model.qk_norm is 'some', but it must be true, false or one of 'whole'"),
    ({"attention_scale": 0.0}, "model.attention_scale is 0.0"),
])  # fmt: skip
def test_what_does_not_fit_together(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(TINY, **options)
    assert isinstance(replace(TINY, sliding_window=2, layer_pattern="G"), GPTConfig)


@pytest.mark.newest
@pytest.mark.parametrize(("pattern", "same"), [("N", True), ("R", False)])
def test_a_layer_without_positions_reads_a_set(pattern: str, same: bool) -> None:
    """The order of the tokens before the last one makes no difference to it in a model of one such layer."""
    model, params = random_gpt(replace(TINY, n_layers=1, position="rotary", rotary_pattern=pattern))
    one, other = (
        model.apply({"params": params}, np.array([ids], np.int32))[0, -1] for ids in ([1, 2, 3, 4], [3, 1, 2, 4])
    )
    assert (np.abs(one - other).max() < 1e-5) == same
