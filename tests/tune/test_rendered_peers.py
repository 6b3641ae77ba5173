"""Which tokens are learned, against the mask that transformers makes of a template's own marks.

A template may mark what an assistant generates with `{% generation %}`. The tuning does not need these marks, so where
a template has them they are another way to the same mask. Needs the extra `peers`.
"""

import tempfile
import warnings
from typing import Any

import pytest
from examples import BYTES, CHATML, chat_format, turn
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.pretrained.hf_tokenizer import save_tokenizer_files
from train.tune.examples import Conversation
from train.tune.rendered import Renderer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in other packages
    transformers = pytest.importorskip("transformers", reason="needs the extra `peers`")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = st.text("aé \n<|", max_size=6)


@pytest.fixture(scope="module")
def theirs() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer_files(folder, BYTES, chat_format(MARKED, begin=None))
        return transformers.AutoTokenizer.from_pretrained(folder)


@settings(max_examples=50)
@given(system=TEXTS, turns=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_the_mask_is_that_of_marks_in_the_template(theirs: Any, system: str, turns: list[tuple[str, str]]) -> None:
    messages = [turn("system", system)] if system else []
    for asked, answered in turns:
        messages += [turn("user", asked), turn("assistant", f"x{answered}")]
    marked = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    for template in (MARKED, CHATML):
        one = Renderer(BYTES, chat_format(template)).conversation(Conversation("", tuple(messages), False))
        after = len(one.ids)
        assert one.ids.tolist() == marked["input_ids"][:after]
        assert [*map(int, one.learned)] == marked["assistant_masks"][:after]
        assert not any(marked["assistant_masks"][after:])
