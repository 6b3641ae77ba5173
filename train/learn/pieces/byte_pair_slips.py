"""The slips of learning merges in piece 3: of counting, of ties, and of how a pair is replaced."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from ..piece import Slip

Pair = tuple[int, int]


def units_of(text: str, units: str) -> list[int]:
    return list(text.encode()) if units == "bytes" else [ord(character) for character in text]


def merged(ids: list[int], pair: Pair, new: int, way: str) -> list[int]:
    """The ids with the pair replaced: from the left or right, at its first place only, or with its second id kept."""
    out: list[int] = []
    if way == "right":
        return merged(ids[::-1], (pair[1], pair[0]), new, "left")[::-1]
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair and not (way == "first" and new in out):
            out.append(new)
            i += 1 if way == "second kept" else 2
        else:
            out.append(ids[i])
            i += 1
    return out


def _apart(ids: list[int]) -> Counter[Pair]:
    """Counts of pairs that do not overlap: aaa has one aa."""
    counts: Counter[Pair] = Counter()
    last: tuple[Pair, int] = ((-1, -1), -1)
    for i, pair in enumerate(pairwise(ids)):
        if last == (pair, i - 1):
            last = ((-1, -1), -1)
            continue
        counts[pair] += 1
        last = (pair, i)
    return counts


TIES: dict[str, Callable[[Counter[Pair]], Pair]] = {
    "lowest": lambda counts: min(counts, key=lambda pair: (-counts[pair], pair)),
    "highest": lambda counts: max(counts, key=lambda pair: (counts[pair], pair)),
    "first seen": lambda counts: max(counts, key=counts.__getitem__),
    "last seen": lambda counts: max(reversed(counts), key=counts.__getitem__),
    "rarest": lambda counts: min(counts, key=lambda pair: (counts[pair], pair)),
}


def varied_merges(
    text: str, n_merges: int, *, ties: str = "lowest", overlaps: bool = True, first: int = 256, way: str = "left",
    units: str = "bytes", least: int = 1, recount: bool = True, words: bool = False,
) -> list[Pair]:  # fmt: skip
    """`learn_merges` with the mistakes that the keywords choose."""
    parts = text.replace(" ", "\0 ").split("\0") if words else [text]
    pieces = [units_of(part, units) for part in parts]
    merges: list[Pair] = []
    while len(merges) < n_merges:
        counts: Counter[Pair] = Counter()
        for piece in pieces:
            counts.update(pairwise(piece) if overlaps else _apart(piece))
        counts = Counter({pair: n for pair, n in counts.items() if n >= least and (recount or pair not in merges)})
        if not counts:
            break
        merges.append(TIES[ties](counts))
        if recount:
            pieces = [merged(piece, merges[-1], first + len(merges) - 1, way) for piece in pieces]
    return merges


LEARN_SLIPS = (
    Slip(
        "ties-by-highest-ids",
        "takes the pair with the highest ids where several are equally frequent",
        "Ties are common, and each choice changes all merges after it. Here the lowest ids win.",
        "Print the counts at the first step that differs: which pairs share the largest?",
        partial(varied_merges, ties="highest"),
    ),
    Slip(
        "ties-by-first-place",
        "takes the pair that occurs first in the text where several are equally frequent",
        "A maximum keeps the first of equals, and a dict has the order of the text. Here the lowest ids win.",
        "What decides among pairs with the same count?",
        partial(varied_merges, ties="first seen"),
    ),
    Slip(
        "ties-by-last-place",
        "takes the last pair that was met where several are equally frequent",
        "A comparison with >= lets a later pair replace an equal one. Here the lowest ids win.",
        "What decides among pairs with the same count?",
        partial(varied_merges, ties="last seen"),
    ),
    Slip(
        "rarest-pair",
        "takes the pair that occurs least often",
        "The merges then save next to nothing. A frequent pair becomes short when it is one id.",
        "In which direction do you sort the counts?",
        partial(varied_merges, ties="rarest"),
    ),
    Slip(
        "overlaps-not-counted",
        'counts "aaa" as one pair, not two',
        "Every two neighbours are a pair, also where two pairs share an id. Only the replacements must not overlap.",
        'How many neighbours has "aaaa"?',
        partial(varied_merges, overlaps=False),
    ),
    Slip(
        "ids-from-255",
        "has new ids that begin at 255",
        "The bytes are the ids 0 to 255, which are 256 ids. The first merge would share an id with the byte 255.",
        "How many different bytes are there?",
        partial(varied_merges, first=255),
    ),
    Slip(
        "ids-from-257",
        "has new ids that begin at 257",
        "Id 256 then stands for nothing. The bytes are the ids 0 to 255.",
        "Which is the first id after the bytes?",
        partial(varied_merges, first=257),
    ),
    Slip(
        "counted-once",
        "equals the most frequent pairs of the bytes, counted once",
        "Each merge changes which pairs there are. The counts must be taken again from the merged ids.",
        "From what do you count the pairs of the second step?",
        partial(varied_merges, recount=False),
    ),
    Slip(
        "merged-at-one-place",
        "replaces a pair at its first place only",
        "The other places keep the old pair, and it is counted again. All places are replaced before the next count.",
        "How many places does one merge change?",
        partial(varied_merges, way="first"),
    ),
    Slip(
        "merged-from-the-right",
        "replaces pairs from right to left",
        'In "aaa" the two ways leave the single a at different ends. Replacement goes from the left.',
        'Which two of "aaa" become one id?',
        partial(varied_merges, way="right"),
    ),
    Slip(
        "second-id-kept",
        "keeps the second id of a pair after its new id",
        "The new id stands for both. The search must go on after the pair, not at its second id.",
        'How many ids should "ab" have after (a, b) is merged?',
        partial(varied_merges, way="second kept"),
    ),
    Slip(
        "code-points",
        "starts from characters, not from bytes",
        "The code points of other alphabets are larger than 255 and collide with the new ids. Bytes write every text.",
        'How many ids does "é" have before any merge?',
        partial(varied_merges, units="code points"),
    ),
    Slip(
        "single-pairs-left",
        "stops when no pair occurs twice",
        "Some libraries stop there, but here merging goes on while there are pairs. The number of merges is asked for.",
        "When exactly should the loop end early?",
        partial(varied_merges, least=2),
    ),
    Slip(
        "split-at-spaces",
        "never merges across a space",
        "Full tokenizers split a text into words first, but this piece takes it as a whole. A pair may hold a space.",
        "Do you cut the text before you count?",
        partial(varied_merges, words=True),
    ),
)
