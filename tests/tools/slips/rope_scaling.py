"""Mutations of the scaling of rotary positions: YaRN and the linear one, in the model and in files."""

from slips.mutation import Mutation, twin

ROTARY, SCALING, CONFIG = "jaxllm/rotary.py", "jaxllm/pretrained/rope_scaling.py", "jaxllm/config.py"
YARN = "rotary.rotary_frequencies"
SETTINGS = "pretrained/test_hf_config.py::test_settings_are_read"
KEYS = "pretrained/test_gguf_model.py::test_scalings_in_keys"

MUTATIONS = [
    Mutation("linear scaling as Llama 3's", ROTARY, 'if scaling == "linear":', 'if False:', twin(YARN, 3)),
    Mutation("YaRN mixes the other way", ROTARY, "return 1 - np.clip((np.arange", "return np.clip((np.arange", twin(YARN, 4)),
    Mutation("YaRN's first and last pair exchanged", ROTARY, "for turns in (high_frequency, low_frequency)", "for turns in (low_frequency, high_frequency)", twin(YARN, 4)),
    Mutation("YaRN rounded where it is not to be", ROTARY, "    if truncate:", "    if True:", twin(YARN, 5)),
    Mutation("YaRN divides by nothing", ROTARY, "last - first or 0.001", "last - first or 9.0", twin(YARN, 7)),
    Mutation("YaRN begins before the first pair", ROTARY, "max(first, 0), min(last", "first, min(last", twin(YARN, 8)),
    Mutation("rotated but not scaled", ROTARY, "scale * jnp.cos(angle), scale * jnp.sin(angle)", "jnp.cos(angle), jnp.sin(angle)", twin("rotary.rotate", 3)),
    Mutation("attention forgets YaRN's factor", ROTARY, "rotate(x[..., :width], places, frequencies, interleaved, scale)", "rotate(x[..., :width], places, frequencies, interleaved)", twin("rotary.rotate_heads", 3)),
    Mutation("YaRN's factor without its tenth", CONFIG, "1 + 0.1 * math.log(self.rope_factor)", "1 + math.log(self.rope_factor)", "model/test_layer_options.py::test_yarn_scales_queries_and_keys_by_the_growth_of_the_context"),
    Mutation("YaRN's scales of attention left out", SCALING, "return (1 + 0.1 * scale * grown) / (1 + 0.1 * scale_all * grown), []", "return None, []", f"{SETTINGS}[YaRN with scales of attention]"),
    Mutation("a null of YaRN kept", SCALING, 'given.get("beta_fast") or 32', 'given.get("beta_fast", 32)', f"{SETTINGS}[YaRN with defaults]"),
    Mutation("a factor of GGUF that is no scaling", SCALING, '"linear" if kind is None else kind', '"none" if kind is None else kind', f"{KEYS}[a factor without a type]"),
    Mutation("divisors of frequencies beside another scaling", "jaxllm/pretrained/gguf_config.py", "    if not fits:", "    if False:", "pretrained/test_gguf_model.py::test_two_scalings_are_refused", "DID NOT RAISE"),
]  # fmt: skip
