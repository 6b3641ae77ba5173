"""A run as a model of lm-evaluation-harness (Gao et al., EleutherAI), which has the tasks that others report.

    import lm_eval
    from jaxllm_train.tasks.harness import JaxllmLM

    lm_eval.simple_evaluate(model=JaxllmLM("runs/smollm2"), tasks=["hellaswag", "arc_easy"])

Texts become ids as in the harness's own class for transformers: names of special tokens in a text are these tokens, and
a text that begins with the token before texts does not get it twice.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxllm.fast.cached_gpt import CachedBlock, CachedGPT
from jaxllm.fast.generate import start_generation, stream, why_not_cached
from jaxllm.fast.loss import MOST_LOGITS
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling, generate
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer
from jaxllm.utils.errors import InputError, shown

from ..evaluate import evaluation_rows
from ..nonfinite import check_computed
from ..progress import counted
from ..runs.load import load_run
from .likelihood import Completion, first_id, likelihoods

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise ImportError("lm-evaluation-harness is not installed; run `pip install 'jaxllm[harness]'`.") from None

MOST_GENERATED = 256  # tokens, where a task does not say; as in the harness
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")  # what a task may set
PLAIN = {"num_beams": 1, "do_sample": None}  # further settings; None: any value


class JaxllmLM(TemplateLM):
    """The run `run`, or its checkpoint `step`, with the weights held in the type `weights`, a name of `--weights`.

    `batch_size` texts are generated at a time, and sampled from `seed` where a task samples. Raises InputError as
    `load_run` does, for a text that has no likelihood, and for settings of generation that jaxllm does not have.
    """

    def __init__(
        self, run: str, step: str | None = None, weights: str | None = None, batch_size: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        self.path, self.run = run, load_run(run, step)
        self.params = self.run.params if weights is None else pack(self.run.params, weights)
        self.batch_size, self.seed = batch_size, seed
        config = self.run.model.config
        most_tokens = min(evaluation_rows(self.run.config) * config.context_length, MOST_LOGITS // config.vocab_size)
        self._likelihoods = likelihoods(self.run.model, self.params, most_tokens)

    @property
    def max_length(self) -> int:
        """The most tokens that the model reads."""
        return self.run.model.config.context_length

    @property
    def eot_token_id(self) -> int | None:
        """The id that ends a text; None if there is none."""
        tokenizer, name = self.run.tokenizer, self.run.chat.eos_token if self.run.chat else None
        return tokenizer.special_tokens.get(name or "", tokenizer.end_of_text)

    @property
    def prefix_token_id(self) -> int:
        """The id in place of an empty context. Raises InputError where the tokenizer has none."""
        found = first_id(self.run.tokenizer, self.run.chat)
        if found is None:
            raise InputError(f"the tokenizer of {self.path} has no token that begins a text; use tasks with contexts.")
        return found

    @property
    def tokenizer_name(self) -> str:
        """Tells requests that the harness caches apart."""
        return f"jaxllm-{self.run.tokenizer.fingerprint()[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The text of the model's chat template; empty if it has none."""
        return (self.run.chat.chat_template if self.run.chat else None) or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as one text; without the generation prompt it ends within the last message.

        Raises InputError if the model has no chat template.
        """
        if self.run.chat is None:
            raise InputError(f"{self.path} has no chat template; leave apply_chat_template out.")
        text = self.run.chat.render(chat_history, add_generation_prompt)
        last = chat_history[-1]["content"].strip()
        return text if add_generation_prompt else text[: text.rindex(last) + len(last)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text, after the model's begin token, which `add_special_tokens=False` leaves out."""
        tokenizer, begin = self.run.tokenizer, self.run.begin_token
        if isinstance(tokenizer, BPETokenizer | SentencePieceTokenizer):
            ids = tokenizer.encode(string, tokenizer.special_tokens)
        else:
            ids = tokenizer.encode(string)
        if begin is None or add_special_tokens is False or (add_special_tokens is None and ids[:1] == [begin]):
            return ids
        return [begin, *ids]

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation after its context, and whether it is what greedy decoding writes."""
        pairs = [self._completion(texts, context, ids) for texts, context, ids in requests]
        found = [(one.log_prob, one.greedy) for one in self._likelihoods(pairs)]
        check_computed([log_prob for log_prob, _ in found], self.path, self.run.params)
        for (texts, _, _), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def _completion(self, texts: Any, context: Sequence[int], continuation: Sequence[int]) -> Completion:
        if not 0 < len(continuation) <= self.max_length:
            raise InputError(
                f"the continuation {shown(texts and texts[1], 40)} has {len(continuation):,} tokens, but it must have "
                f"from 1 to {self.max_length:,}, the model's context; leave this task out."
            )
        return Completion(tuple(context) or (self.prefix_token_id,), tuple(continuation))

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text.

        A text longer than the model's context is read in windows. Each of its tokens is predicted once.
        """
        totals = []
        with counted("texts", len(requests)) as report:
            for request in requests:
                (text,) = request.args
                windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
                parts = [(None, *make_disjoint_window(window)) for window in windows]
                totals.append(sum(log_prob for log_prob, _ in self._loglikelihood_tokens(parts)))
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
                report(len(totals))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to the first stop string or end token."""
        numbers = sorted(range(len(requests)), key=lambda i: repr(requests[i].args[1]))
        written: dict[int, str] = {}
        with counted("texts", len(requests)) as report:
            for _, group in groupby(numbers, key=lambda i: requests[i].args[1]):
                alike = sorted(group, key=lambda i: len(requests[i].args[0]))
                for start in range(0, len(alike), self.batch_size):
                    batch = alike[start : start + self.batch_size]
                    contexts = [requests[i].args[0] for i in batch]
                    written |= dict(
                        zip(batch, self._texts(contexts, requests[batch[0]].args[1], batch[0]), strict=True)
                    )
                    report(len(written))
        for i, request in enumerate(requests):
            self.cache_hook.add_partial("generate_until", request.args, written[i])
        return [written[i] for i in range(len(requests))]

    def _texts(self, contexts: Sequence[str], settings: dict[str, Any], number: int) -> list[str]:
        """What follows the contexts, which share their settings; `number` tells the keys of batches apart."""
        settings = dict(normalize_gen_kwargs(settings, MOST_GENERATED))
        stops = [stop for stop in handle_stop_sequences(settings.pop("until"), eos=None) if stop]
        most, sampling = settings.pop("max_gen_toks"), sampling_of(settings)
        room = self.max_length - most
        if room < 1:
            raise InputError(
                f"max_gen_toks is {most:,}, but it must be less than {self.max_length:,}, the model's context; set it "
                "in the task's generation_kwargs."
            )
        ids = [(self.tok_encode(text) or [self.prefix_token_id])[-room:] for text in contexts]
        key = jax.random.fold_in(jax.random.key(self.seed), number)
        drawn: list[list[int]] = [[] for _ in ids]
        for new in self._drawn(ids, key, most, sampling):
            for row, more in zip(drawn, new.tolist(), strict=True):
                row += more
            texts = [self._text(row) for row in drawn]
            if all(any(stop in text for stop in stops) for text in texts):
                break
        return [min((text.partition(stop)[0] for stop in stops), key=len, default=text) for text in texts]

    def _drawn(self, ids: list[list[int]], key: Any, most: int, sampling: Sampling) -> Iterator[np.ndarray]:
        """At most so many tokens after each row of ids, [B, N] at a time."""
        model = CachedGPT(self.run.model.config, self.run.model.dtype, nn.jit(CachedBlock))
        rest = (self.params, ids, key, most, sampling, self.run.tokenizer.vocab_size, self._ends)
        if why_not_cached(model):
            yield generate(self.run.model, *rest)
        else:
            yield from stream(start_generation(model, *rest), most)

    @property
    def _ends(self) -> tuple[int, ...]:
        ends = (*(self.run.chat.end_tokens if self.run.chat else ()), self.eot_token_id)
        return tuple(dict.fromkeys(i for i in ends if i is not None))

    def _text(self, ids: Sequence[int]) -> str:
        """The text of the ids before the first that ends it, without special tokens."""
        end = next((n for n, i in enumerate(ids) if i in self._ends), len(ids))
        special = set(self.run.tokenizer.special_tokens.values())
        return self.run.tokenizer.decode(i for i in ids[:end] if i not in special)


def sampling_of(settings: dict[str, Any]) -> Sampling:
    """How a task's settings choose tokens: greedily unless they ask for a temperature.

    Raises InputError for a setting that jaxllm does not have.
    """
    unknown = [
        name for name, value in settings.items()
        if name not in SAMPLING and not (name in PLAIN and PLAIN[name] in (None, value))
    ]  # fmt: skip
    if unknown:
        value = settings[unknown[0]]
        raise InputError(
            f"generation_kwargs has {unknown[0]} = {shown(value)}, but jaxllm has {', '.join(SAMPLING)}; leave it out."
        )
    return Sampling(**{"temperature": 0.0} | {name: settings[name] for name in SAMPLING if name in settings})
