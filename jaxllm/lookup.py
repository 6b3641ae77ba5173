"""Prompt lookup: the next tokens are drafted from what followed the last ones where they stood before. Saxena 2023.

Speculative decoding without a second model (Leviathan et al. 2023): the model reads its newest token together with
drafted ones, and each draft that is the token it would have drawn saves a reading. Code, quotations and lists repeat
themselves enough. The NumPy twin is in `jaxllm.reference.lookup`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Int

from jaxllm.array import Array

LONGEST = 3  # tokens that are looked up; where they are new, fewer
MOST_DRAFTED = 15  # with the newest token 16 rows of a product, as many as are computed at the speed of the memory


def drafted(
    text: Int[Array, "B N"], length: Int[Array, ""] | int, start: Int[Array, "B"], n: int
) -> Int[Array, "B {n}"]:
    """`n` guesses of the tokens that follow each row of a text, whose columns from `start` to `length` - 1 are in use.

    The last 3 tokens are looked up, where they are new the last 2, then the last one; of several places the latest one
    counts. What followed there is the draft. Where it reaches the end of the text, it goes on as the period that it is:
    after "a b c a b c" the draft is "a b c a b c". A last token that is new is drafted again.
    """
    width, last = text.shape[1], length - 1
    columns = jnp.arange(width)
    equal, alike = jnp.ones(text.shape, bool), jnp.zeros(text.shape, jnp.int32)
    for back in range(LONGEST):
        own = jax.lax.dynamic_slice_in_dim(text, last - back, 1, 1)
        earlier = jnp.pad(text, ((0, 0), (back, 0)))[:, :width]
        equal = equal & (earlier == own) & (columns - back >= start[:, None])
        alike = alike + equal  # tokens up to here that are those up to the last
    rank = jnp.where((alike > 0) & (columns < last), alike * width + columns, -1).max(1)
    place = jnp.where(rank < 0, last - 1, rank % width)
    followed = place[:, None] + 1 + jnp.arange(n) % (last - place)[:, None]
    return jnp.take_along_axis(text, followed, axis=1)
