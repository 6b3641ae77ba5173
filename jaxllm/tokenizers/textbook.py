"""Byte-pair encoding on one page, as a book prints it. Read this first.

A text is bytes in UTF-8, so the ids 0 to 255 already write any text. Learning looks for the pair of neighbouring ids
that occurs most often and gives it a new id: 256, then 257, and so on. Each new id stands for a longer string of bytes,
a token. Encoding makes the same replacements in a new text, in the order in which they were learned.

Text is first split into pieces, such as a word with the space before it. Merges never cross a piece, so no token spans
two words.

>>> merges = train("low lower lowest", vocab_size=259)
>>> encode("a slow owl", merges)
[97, 32, 115, 257, 32, 111, 119, 108]
>>> decode([97, 32, 115, 257], merges)
'a slow'

Step by step:

>>> merges = learn_merges({b"low": 5, b" lower": 2, b" lowest": 3}, n_merges=4)  # pieces, and how often each occurs
>>> merges
[(108, 111), (256, 119), (32, 257), (258, 101)]
>>> tokens = tokens_of(merges)
>>> tokens[256:]
[b'lo', b'low', b' low', b' lowe']
>>> ids = encode_piece(b" lower", ranks={token: i for i, token in enumerate(tokens)})
>>> ids
[259, 114]
>>> b"".join(tokens[i] for i in ids)
b' lower'

The same steps without recounting, on whole corpora: `jaxllm.tokenizers.pre_tokenize` splits text into pieces,
`bpe_training` learns the merges, and `bpe` encodes through tiktoken. The tests compare all of it with this page.
Gage 1994; Sennrich et al. 2016; on bytes, Radford et al. 2019.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

import regex

# A contraction; a word, a number or a run of punctuation, each with the space before it; white space. (GPT-2)
PIECE = regex.compile(r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
Pair = tuple[int, int]


def train(text: str, vocab_size: int) -> list[Pair]:
    """The merges that a text teaches: all ids but the 256 bytes, or fewer if no pair is left.

    >>> train("aaabdaaabac", 258)
    [(97, 97), (97, 98)]

    Raises ValueError for a size below 256, and for half of a character (a lone surrogate), which is not UTF-8.
    """
    if vocab_size < 256:
        raise ValueError(f"vocab_size is {vocab_size}, but the bytes alone are 256 ids.")
    return learn_merges(Counter(split(text)), vocab_size - 256)


def encode(text: str, merges: Sequence[Pair]) -> list[int]:
    """The ids of a text: those of its pieces, one after the other. Raises ValueError as `train` does.

    >>> encode("aaab", [(97, 97), (97, 98)])
    [256, 257]
    """
    ranks = {token: i for i, token in enumerate(tokens_of(merges))}
    return [i for piece in split(text) for i in encode_piece(piece, ranks)]


def decode(ids: Sequence[int], merges: Sequence[Pair]) -> str:
    """The text of ids; bytes that are no character become U+FFFD. Raises KeyError for an id that there is not.

    >>> decode([256, 257], [(97, 97), (97, 98)])
    'aaab'
    """
    tokens = dict(enumerate(tokens_of(merges)))
    return b"".join(tokens[i] for i in ids).decode(errors="replace")


def split(text: str) -> list[bytes]:
    """The pieces of a text, in UTF-8. Joined they are the text.

    >>> split("It's  here")
    [b'It', b"'s", b' ', b' here']
    """
    return [piece.encode() for piece in PIECE.findall(text)]


def learn_merges(piece_counts: Mapping[bytes, int], n_merges: int) -> list[Pair]:
    """The pairs in the order in which they are merged; merge number i makes the id 256 + i.

    Each time it is the most frequent pair and, among equally frequent ones, the pair with the lowest ids. There are
    fewer than `n_merges` if no pair is left.

    >>> learn_merges({b"aaabdaaabac": 1}, 3)
    [(97, 97), (97, 98), (256, 257)]
    """
    pieces = {tuple(piece): times for piece, times in piece_counts.items()}
    merges: list[Pair] = []
    while len(merges) < n_merges and (counts := count_pairs(pieces)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        new = 256 + len(merges)
        merges.append(best)
        pieces = {tuple(merge(piece, best, new)): times for piece, times in pieces.items()}
    return merges


def count_pairs(pieces: Mapping[tuple[int, ...], int]) -> Counter[Pair]:
    """How often each two ids are neighbours.

    >>> count_pairs({(97, 98, 97, 98): 1})
    Counter({(97, 98): 2, (98, 97): 1})
    """
    counts: Counter[Pair] = Counter()
    for piece, times in pieces.items():
        for pair in pairwise(piece):
            counts[pair] += times
    return counts


def merge(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    """The ids with each occurrence of the pair replaced by `new`, from left to right.

    >>> merge([97, 97, 97, 98], (97, 97), 256)
    [256, 97, 98]
    """
    out: list[int] = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def tokens_of(merges: Sequence[Pair]) -> list[bytes]:
    """The bytes of each id: the 256 single bytes, then for each merge the bytes of its two parts."""
    tokens = [bytes([i]) for i in range(256)]
    for left, right in merges:
        tokens.append(tokens[left] + tokens[right])
    return tokens


def encode_piece(piece: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """The ids of a piece: its bytes, merged wherever two neighbours make a token, the token with the lowest rank first.

    A token's rank is its id, so the merges happen in the order in which they were learned. A piece that is itself a
    token is that token; for learned merges the loop would find the same.

    >>> ranks = {bytes([i]): i for i in range(256)} | {b"aa": 256, b"ab": 257, b"aaab": 258}
    >>> encode_piece(b"aaabdaaabac", ranks)
    [258, 100, 258, 97, 99]
    """
    if piece in ranks:
        return [ranks[piece]]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        joined = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not joined:
            return [ranks[part] for part in parts]
        _, i = min(joined)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
