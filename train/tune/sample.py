"""The sample of text that a run on examples writes: the answer to a question."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxllm.generate import Sampling, generate
from jaxllm.gpt import GPT
from jaxllm.pretrained.chat import ChatFormat, encode_chat
from jaxllm.tokenizers import Tokenizer

from ..config import EvalConfig
from .data import TuneData
from .rendered import Renderer


def answering(data: TuneData, chat: ChatFormat | None) -> Callable[..., str]:
    """`train.evaluate.sample_text`, for answers: `eval.prompt` is the question.

    Without one it is the question of the first validation example. The answer ends as the model's answers end.
    """

    def sample(model: GPT, params: Any, tokenizer: Tokenizer, config: EvalConfig, first: int, seed: int) -> str:
        prompt = question(data, tokenizer, chat, config.prompt)
        ends = chat.end_tokens if chat else ()
        tokens = generate(
            model, params, [prompt], jax.random.key(seed), config.sample_tokens, Sampling(config.temperature),
            tokenizer.vocab_size, ends,
        )[0].tolist()  # fmt: skip
        end = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        return tokenizer.decode([*prompt, *tokens[:end]])

    return sample


def question(data: TuneData, tokenizer: Tokenizer, chat: ChatFormat | None, prompt: str) -> Sequence[int]:
    """The ids that an answer follows, as training has them. Raises InputError for a prompt that cannot be rendered."""
    if prompt and chat is not None and chat.chat_template is not None:
        message = {"role": "user", "content": prompt}
        return encode_chat(tokenizer, chat, [message], day=data.day)  # type: ignore[arg-type]
    if prompt:
        return [*Renderer(tokenizer, chat).begin, *tokenizer.encode(prompt)]
    one = data.validation.examples[0][0]
    begin = int((one.targets >= 0).argmax())  # targets are shifted by one
    return list(map(int, one.ids[: begin + 1]))
