"""Byte-level vocabularies with a list of merges, in GPT-2's spelling, as tokenizer.json and GGUF files hold them.

Hugging Face merges the pairs of the list. tiktoken merges any pair whose joined bytes are a token, the lowest rank
first. Both give the same ids for a vocabulary that was learned by merging; this is checked here, token by token.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from jaxllm.tokenizers.bpe import BPETokenizer
from jaxllm.tokenizers.merges import merged_from, merges_of
from jaxllm.tokenizers.special_tokens import NO_STRIPS, NO_TOKENS
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.utf8 import visible

# GPT-2 writes bytes as visible characters: the printable ones of Latin-1 as themselves, the others, in order, as the
# characters from 256 on. (openai/gpt-2, src/encoder.py)
_VISIBLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
TO_CHARACTER = {b: chr(b) for b in _VISIBLE} | {
    b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in _VISIBLE)
}
TO_BYTE = {character: b for b, character in TO_CHARACTER.items()}
Merge = tuple[bytes, bytes]


def to_characters(token: bytes) -> str:
    """The token in GPT-2's spelling."""
    return "".join(TO_CHARACTER[b] for b in token)


def to_bytes(characters: str) -> bytes:
    """The inverse of `to_characters`. Raises InputError for a character that stands for no byte."""
    try:
        return bytes(TO_BYTE[c] for c in characters)
    except KeyError as error:
        raise InputError(f"token {shown(characters)} holds {shown(error.args[0])}, which stands for no byte.") from None


def split_merge(written: str | Sequence[str]) -> Merge:
    """`"Ġ t"` or `["Ġ", "t"]` -> `(b" ", b"t")`. Raises ValueError for anything but a pair."""
    left, right = written.split(" ") if isinstance(written, str) else written
    return to_bytes(left), to_bytes(right)


def from_vocabulary(
    ids: Mapping[str, int],
    merges: Iterable[str | Sequence[str]],
    special_tokens: Mapping[str, int],
    pattern: str,
    normalization: str | None,
    source: object,
    whole_pieces: bool = False,
    added: Mapping[str, int] = NO_TOKENS,
    normalized: Collection[str] = (),
    strips: Mapping[str, str] = NO_STRIPS,
) -> BPETokenizer:
    """The tokenizer of a vocabulary, which may include special and added tokens, and of its merges in their order.

    `whole_pieces` says that a piece that is a token is that token, whatever its merges would make (`ignore_merges`).
    `added`, `normalized` and `strips` are those of BPETokenizer.
    Raises InputError, which names the `source`, for ids with gaps and for merges that our encoder would not follow.
    """
    check_ids({**ids, **special_tokens, **added}.values(), source)
    tokens = {to_bytes(name): i for name, i in ids.items() if name not in special_tokens and name not in added}
    ordered = sorted(tokens, key=tokens.__getitem__)
    check_bytes(ordered, source)
    tokenizer = BPETokenizer(ordered, special_tokens, pattern, normalization, added, normalized, strips=strips)
    _check_merges(tokenizer.ranks, [split_merge(one) for one in merges], whole_pieces, source)
    return tokenizer


def check_ids(ids: Collection[int], source: object) -> None:
    """Raises InputError unless the ids are 0, 1, 2 and so on, in any order."""
    if not all(type(i) is int for i in ids) or sorted(ids) != list(range(len(ids))):
        raise InputError(f"the ids in {source} are not 0 to {len(ids) - 1}, each once.")


def check_bytes(tokens: Sequence[bytes], source: object) -> None:
    """Raises InputError for a token that is empty, occurs twice, or holds a byte that is not a token itself."""
    single = {token for token in tokens if len(token) == 1}
    for token in tokens:
        if not token or not single.issuperset(token[i : i + 1] for i in range(len(token))):
            raise InputError(f"token {visible(token)!r} in {source} is empty or holds a byte that is no token itself.")
    if len(set(tokens)) != len(tokens):
        raise InputError(f"{source} holds a token twice.")


def _check_merges(ranks: Mapping[bytes, int], merges: list[Merge], whole_pieces: bool, source: object) -> None:
    """Raises InputError unless merging by the list and merging by rank take the same steps in any text.

    They do if the list is in the order of the ranks and, for each token, holds the pair that its bytes merge to by the
    ranks before it. With `whole_pieces` a token may also have all its splits into two tokens in the list, as
    transformers writes a vocabulary of tiktoken.
    """
    listed: dict[bytes, list[Merge]] = defaultdict(list)
    for left, right in merges:
        listed[left + right].append((left, right))
    order = [ranks.get(token, -1) for token in listed]
    if order != sorted(order) or -1 in order or any(not a or not b for a, b in merges):
        raise InputError(f"the merges in {source} are not in the order of the ids, which is not supported.")
    for token in (token for token in ranks if len(token) > 1):
        if whole_pieces and sorted(listed[token]) == sorted(_splits(token, ranks)):
            continue
        if tuple(merged_from(token, ranks)) not in listed[token]:
            raise InputError(
                f"the merges in {source} do not make token {ranks[token]}, {visible(token)!r}, as its rank would, "
                "which is not supported."
            )


def listed_merges(tokenizer: BPETokenizer) -> tuple[list[Merge], bool]:
    """A list of merges that gives the same ids, and whether it takes `whole_pieces` to do so."""
    try:
        return merges_of(tokenizer), False
    except InputError:  # some token was not learned by merging two others
        return [merge for token in tokenizer.tokens for merge in _splits(token, tokenizer.ranks)], True


def _splits(token: bytes, ranks: Mapping[bytes, int]) -> list[Merge]:
    """The pairs of tokens that join to the token, by the rank of the left one."""
    pairs = ((token[:i], token[i:]) for i in range(1, len(token)))
    return sorted((pair for pair in pairs if pair[0] in ranks and pair[1] in ranks), key=lambda pair: ranks[pair[0]])
