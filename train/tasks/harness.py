"""A run as a model of lm-evaluation-harness (Gao et al., EleutherAI), which has the tasks that others report.

    import lm_eval
    from jaxllm_train.tasks.harness import JaxllmLM

    lm_eval.simple_evaluate(model=JaxllmLM("runs/smollm2"), tasks=["hellaswag", "arc_easy"])

Texts become ids as in the harness's own class for transformers: names of special tokens in a text are these tokens, and
a text that begins with the token before texts does not get it twice.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import jax

from jaxllm.fast.quantised_weights import pack
from jaxllm.utils.errors import InputError, shown

from ..progress import counted
from ..runs.load import load_run
from .likelihood import Completion
from .model import TaskModel, sampling_of

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError:
    raise ImportError("lm-evaluation-harness is not installed; run `pip install 'jaxllm[harness]'`.") from None

MOST_GENERATED = 256  # tokens, where a task does not say; as in the harness


class JaxllmLM(TemplateLM):
    """The run `run`, or its checkpoint `step`, with the weights held in the type `weights`, a name of `--weights`.

    `batch_size` texts are generated at a time, and sampled from `seed` where a task samples. Raises InputError as
    `load_run` and TaskModel do, for a request that does not fit into the context, and for settings of generation that
    jaxllm does not have.
    """

    def __init__(
        self, run: str, step: str | None = None, weights: str | None = None, batch_size: int = 8, seed: int = 0
    ) -> None:
        super().__init__()
        loaded = load_run(run, step)
        self.model = TaskModel(run, loaded, loaded.params if weights is None else pack(loaded.params, weights))
        self.chat, self.batch_size, self.seed = loaded.chat, batch_size, seed

    @property
    def max_length(self) -> int:
        """The most tokens that the model reads."""
        return self.model.context_length

    @property
    def eot_token_id(self) -> int | None:
        """The id that ends a text; None if there is none."""
        return self.model.end_id

    @property
    def prefix_token_id(self) -> int:
        """The id in place of an empty context. Raises InputError where the tokenizer has none."""
        if (found := self.model.first_id) is None:
            raise InputError(
                f"the tokenizer of {self.model.path} has no token that begins a text; use tasks whose contexts are not "
                "empty."
            )
        return found

    @property
    def tokenizer_name(self) -> str:
        """Tells requests that the harness caches apart."""
        return f"jaxllm-{self.model.run.tokenizer.fingerprint()[:16]}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The text of the model's chat template; empty if it has none."""
        return (self.chat.chat_template if self.chat else None) or ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as one text; without the generation prompt it ends within the last message.

        Raises InputError if the model has no chat template.
        """
        if self.chat is None:
            raise InputError(f"{self.model.path} has no chat template; leave apply_chat_template out.")
        text = self.chat.render(chat_history, add_generation_prompt)
        last = chat_history[-1]["content"].strip()
        if add_generation_prompt:
            return text
        if last not in text:
            raise InputError(
                f"the chat template of {self.model.path} changes the message {shown(last)}, so the text cannot end "
                "within it; leave apply_chat_template out."
            )
        return text[: text.rindex(last) + len(last)]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The ids of a text, after the model's begin token unless it has it already; `add_special_tokens` decides."""
        return self.model.encode_written(string, add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """The log-probability of each continuation after its context, and whether it is what greedy decoding writes."""
        pairs = [self._completion(texts, context, ids) for texts, context, ids in requests]
        with counted("likelihoods", len(pairs)) as report:
            found = [(one.log_prob, one.greedy) for one in self.model.likelihoods(pairs, report)]
        for request, answer in zip(requests, found, strict=True):
            if request[0] is not None:  # not a window of a long text
                self.cache_hook.add_partial("loglikelihood", request[0], answer)
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
        return self.model.texts(ids, key, most, sampling, stops)
