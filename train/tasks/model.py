"""A run as tasks ask it: how likely texts are, and what it writes after them."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from flax import linen as nn

from jaxllm.fast.cached_gpt import CachedBlock, CachedGPT
from jaxllm.fast.generate import start_generation, stream, why_not_cached
from jaxllm.fast.loss import MOST_LOGITS
from jaxllm.generate import Sampling, generate
from jaxllm.tokenizers import BPETokenizer, SentencePieceTokenizer
from jaxllm.utils.errors import InputError

from ..evaluate import evaluation_rows
from ..nonfinite import check_computed
from ..runs.load import TrainedRun
from .likelihood import Completion, Likelihood, likelihoods


class TaskModel:
    """The run at `path` with these parameters, which may be packed.

    Raises InputError for a model that sees what it predicts, and NonFiniteError where it computes NaN or infinity.
    """

    def __init__(self, path: str, run: TrainedRun, params: Any) -> None:
        self.path, self.run, self.params = path, run, params
        config = run.model.config
        most_tokens = min(evaluation_rows(run.config) * config.context_length, MOST_LOGITS // config.vocab_size)
        self._likelihoods = likelihoods(run.model, params, most_tokens)

    @property
    def context_length(self) -> int:
        """The most tokens that the model reads."""
        return self.run.model.config.context_length

    @property
    def end_id(self) -> int | None:
        """The id that ends a text; None if there is none."""
        tokenizer, name = self.run.tokenizer, self.run.chat.eos_token if self.run.chat else None
        return tokenizer.special_tokens.get(name or "", tokenizer.end_of_text)

    @property
    def first_id(self) -> int | None:
        """The id in place of an empty context: of the token that begins texts, or else of the one that ends them."""
        name = self.run.chat.bos_token if self.run.chat else None
        return self.run.tokenizer.special_tokens.get(name or "", self.end_id)

    def encode(self, text: str) -> list[int]:
        """The ids of a text after the begin token, if the model has one. Names of special tokens are ordinary text."""
        return self._begun(self.run.tokenizer.encode(text))

    def encode_written(self, text: str, begin: bool | None = None) -> list[int]:
        """The ids of a text in which names of special tokens are these tokens, as a chat template writes them.

        It gets the begin token, if the model has one, unless it begins with it already. `begin` decides otherwise.
        """
        tokenizer = self.run.tokenizer
        if isinstance(tokenizer, BPETokenizer | SentencePieceTokenizer):
            ids = tokenizer.encode(text, tokenizer.special_tokens)
        else:
            ids = tokenizer.encode(text)
        has_one = ids[:1] == [self.run.begin_token]
        return self._begun(ids) if begin or (begin is None and not has_one) else ids

    def _begun(self, ids: list[int]) -> list[int]:
        return ids if self.run.begin_token is None else [self.run.begin_token, *ids]

    def likelihoods(
        self, completions: Sequence[Completion], report: Callable[[int], None] = lambda _: None
    ) -> list[Likelihood]:
        """As `train.tasks.likelihood.likelihoods`."""
        found = self._likelihoods(completions, report)
        check_computed([one.log_prob for one in found], self.path, self.run.params)
        return found

    def texts(
        self, ids: Sequence[Sequence[int]], key: Any, most: int, sampling: Sampling, stops: Sequence[str]
    ) -> list[str]:
        """What the model writes after each row of ids: at most so many tokens, up to a stop string or an end token.

        Neither is part of the text, nor are other special tokens. All rows and `most` must fit into the context.
        """
        drawn: list[list[int]] = [[] for _ in ids]
        texts = [""] * len(ids)
        for new in self._drawn(ids, key, most, sampling):
            for row, more in zip(drawn, new.tolist(), strict=True):
                row += more
            texts = [self._text(row) for row in drawn]
            if all(any(stop in text for stop in stops) for text in texts):
                break
        return [min((text.partition(stop)[0] for stop in stops), key=len, default=text) for text in texts]

    def _drawn(self, ids: Sequence[Sequence[int]], key: Any, most: int, sampling: Sampling) -> Iterator[np.ndarray]:
        """At most so many tokens after each row, [B, N] at a time."""
        rest = (self.params, ids, key, most, sampling, self.run.tokenizer.vocab_size, self._ends)
        model = CachedGPT(self.run.model.config, self.run.model.dtype, nn.jit(CachedBlock))
        if why_not_cached(model):
            yield generate(self.run.model, *rest)
        else:
            yield from stream(start_generation(model, *rest), most)

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        ends = (*(self.run.chat.end_tokens if self.run.chat else ()), self.end_id)
        return tuple(dict.fromkeys(i for i in ends if i is not None))

    @cached_property
    def _unwritten(self) -> frozenset[int]:
        return frozenset(self.run.tokenizer.special_tokens.values())

    def _text(self, ids: Sequence[int]) -> str:
        """The text of the ids before the first that ends it, without special tokens."""
        end = next((n for n, i in enumerate(ids) if i in self._ends), len(ids))
        return self.run.tokenizer.decode(i for i in ids[:end] if i not in self._unwritten)


SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


def sampling_of(settings: dict[str, Any]) -> Sampling:
    """How a task's `generation_kwargs` choose tokens: the most likely one, unless they ask for a temperature.

    `num_beams` may be 1, and `do_sample` anything. Raises InputError for a setting that jaxllm does not have.
    """
    given = {
        name: value for name, value in settings.items() if name != "do_sample" and (name, value) != ("num_beams", 1)
    }
    if unknown := [name for name in given if name not in SAMPLING]:
        raise InputError(
            f"generation_kwargs has {unknown[0]} = {given[unknown[0]]!r}, but jaxllm has {', '.join(SAMPLING)}; leave "
            "it out."
        )
    return Sampling(**{"temperature": 0.0} | given)
