"""Prints the confusion table of `jaxllm learn`: each slip of the course planted in a right solution, and what is named.

Run as `python tests/tools/confusion.py [--seeds N] [--pairs]`. Each seed gives other inputs.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from learn.catalogue import functions, named, pairs, slips  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pairs", action="store_true", help="two slips in one body as well")
    options = parser.parse_args()
    seeds = range(1000, 1000 + options.seeds)
    total: Counter[str] = Counter()
    for piece, function, slip in slips():
        found = [named(function, slip.wrong, seed) for seed in seeds]
        total[show(f"{piece}.{function.name}", (slip.name,), found)] += 1
    print_total("slips", total)
    if options.pairs:
        total = Counter()
        for piece, function in functions():
            for names, body in pairs(function):
                total[show(f"{piece}.{function.name}", names, [named(function, body, s) for s in seeds], True)] += 1
        print_total("pairs", total)


def show(where: str, planted: tuple[str, ...], found: list[set[tuple[str, ...]]], short: bool = False) -> str:
    """Print a row; returns in which way it was named."""
    exact = all(names == {planted} for names in found)
    with_others = all(planted in names for names in found)
    verdict = "exactly" if exact else "with others" if with_others else "not"
    if not (short and exact):
        others = sorted({"+".join(names) or "right" for one in found for names in one} - {"+".join(planted)})
        print(f"{where:50} {'+'.join(planted):60} {verdict:12} {', '.join(others)}")
    return verdict


def print_total(what: str, total: Counter[str]) -> None:
    print(f"{sum(total.values())} {what}: " + ", ".join(f"{n} named {how}" for how, n in total.items()))


if __name__ == "__main__":
    main()
