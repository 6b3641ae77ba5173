"""Counts the arbitrary faults that tests notice: `python tests/tools/mutation_score.py [--share 0.2] [--seed 0] [FILE ...]`

`mutate.py` puts in chosen slips, each with the one test that must notice it, and is part of CI. This program uses
cosmic-ray's operators instead (every operator, comparison, number, condition, loop and decorator of a file) and runs the
tests of that file until one fails. It needs `pip install cosmic-ray`, takes hours for all files and is run by hand.

One replacement is drawn for each place, so that a sum with eleven possible operators counts once. Annotations are left
out, because a fault there fails at import. Each survivor is printed as a diff: a fault that changes no result is
equivalent, any other needs a test. The exit code is 1 if a fault survives.
"""

import argparse
import ast
import difflib
import math
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mutate import ROOT, copy, fork, load_packages

LIMIT = 120  # seconds of one test, which notices a fault that loops


class Tests(NamedTuple):
    """The tests of a file, the quick ones first, and an expression for pytest's -k."""

    files: list[str]
    keyword: str = "test"


BATCHES, SHARDS = ["data/test_windows.py", "data/test_batches.py"], ["data/test_documents.py", "data/test_shards.py"]
FOLDERS = ["data/test_folders.py", "data/test_documents.py", "data/test_own_output.py"]
LAYERS = "layers or MLP or Linear or Norm"
TESTS = {
    "jaxllm/layers.py": Tests(["model/test_twins.py", "model/test_gpt.py", "model/test_quantised_weights.py", "training/test_step.py"], f"not test_twins or {LAYERS}"),
    "jaxllm/attention.py": Tests(["model/test_attention.py", "model/test_within_documents.py", "model/test_twins.py", "model/test_cache.py"], "not test_twins or attention or Attention"),
    "jaxllm/fast/attention.py": Tests(["model/test_fast_attention.py", "model/test_twins.py"], "not test_twins or causal"),
    "jaxllm/loss.py": Tests(["model/test_twins.py", "model/test_fast_attention.py"], "loss or cross_entropy"),
    "jaxllm/sampling.py": Tests(["model/test_twins.py", "model/test_generate.py"], "sampling or test_generate and not greedy"),
    "jaxllm/generate.py": Tests(["model/test_generate.py", "pretrained/test_finite_weights.py"]),
    "jaxllm/fast/cached_gpt.py": Tests(["model/test_cache.py", "model/test_generate.py", "model/test_twins.py"], "not test_twins or grouped"),
    "jaxllm/fast/generate.py": Tests(["model/test_generate.py", "pretrained/test_finite_weights.py"]),
    "jaxllm/tokenizers/bpe.py": Tests(["tokenizers/test_tokenizers.py", "tokenizers/test_pre_tokenize.py", "tokenizers/test_other_formats.py", "tokenizers/test_split_patterns.py", "tokenizers/test_added_tokens.py", "tokenizers/test_chunks.py"]),
    "jaxllm/data/batches.py": Tests(BATCHES),
    "jaxllm/data/documents.py": Tests(SHARDS),
    "jaxllm/data/folders.py": Tests(FOLDERS),
    "jaxllm/data/mixture.py": Tests(BATCHES),
    "jaxllm/data/own_output.py": Tests(FOLDERS),
    "jaxllm/data/windows.py": Tests(BATCHES),
    "jaxllm/data/permutation.py": Tests(BATCHES),
    "jaxllm/data/shard_writer.py": Tests([*SHARDS, "data/test_end_token.py"]),
    "jaxllm/data/id_sequences.py": Tests([*BATCHES, *SHARDS]),
    "jaxllm/data/shards.py": Tests([*SHARDS, "data/test_mapped_files.py", "training/test_training_from_shards.py"]),
    "jaxllm/data/sources.py": Tests(["data/test_sources.py", *SHARDS]),
    "train/step.py": Tests(["training/test_step.py", "training/test_nonfinite.py", "training/test_loop.py"]),
    "train/runs/checkpoint.py": Tests(["training/test_checkpoint.py", "training/test_full_disk.py", "commands/test_checkpoint_commands.py"]),
}  # fmt: skip


class Mutant(NamedTuple):
    """One fault: the file, the operator that made it, the line, and the file's text with it."""

    file: str
    operator: str
    line: int
    text: str

    def diff(self) -> str:
        old = (ROOT / self.file).read_text(encoding="utf-8").splitlines()
        changed = difflib.unified_diff(old, self.text.splitlines(), lineterm="", n=0)
        return "\n".join(line for line in list(changed)[2:] if not line.startswith("@@"))


def mutants(file: str, share: float, rng: random.Random) -> list[Mutant]:
    """One mutant for each of a random share of the places that cosmic-ray's operators change."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / file).read_text(encoding="utf-8")
    nodes, excluded = list(ast_nodes(get_ast(source))), annotations(source)
    places: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    for name in operator_names():
        operator = get_operator(name)
        if name == "core/ExceptionReplacer" or operator.arguments():  # it fails on a tuple of exceptions
            continue
        spots = (spot for node in nodes for spot in operator().mutation_positions(node))
        for occurrence, (start, end) in enumerate(spots):
            if not any(first <= start and end <= last for first, last in excluded):
                family = name.split("_")[0]  # operators that replace the same thing
                places.setdefault((start, end, family), []).append((name, occurrence))
    found = []
    for start, *place in rng.sample(sorted(places), math.ceil(share * len(places))):
        name, occurrence = rng.choice(places[start, *place])
        found.append(Mutant(file, name, start[0], mutate_code(source, get_operator(name)(), occurrence) or source))
    return [mutant for mutant in found if mutant.text != source]


def annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """The start and end of each type annotation, as pairs of (line, column)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for one in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if one is not None:
                found.append(((one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)))
    return found


def verdicts(chosen: list[Mutant], work: Path) -> Iterator[tuple[Mutant, int]]:
    """Each mutant with pytest's exit code, 0 if it survived; as many at once as there are cores."""
    running: dict[int, tuple[Mutant, Path]] = {}
    waiting = list(chosen)
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            mutant = waiting.pop(0)
            folder = Path(tempfile.mkdtemp(dir=work))
            copy(None, folder)
            (folder / mutant.file).write_text(mutant.text, encoding="utf-8")
            tests = TESTS[mutant.file]
            os.environ["PYTEST_ADDOPTS"] = f"-x -q --timeout {LIMIT} -k '{tests.keyword}'"
            running[fork(tests.files, folder)] = mutant, folder
        child, status = os.wait()
        mutant, folder = running.pop(child)
        shutil.rmtree(folder)
        yield mutant, os.waitstatus_to_exitcode(status)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "files", nargs="*", default=list(TESTS), metavar="FILE", help="default: all that have a list of tests"
    )
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="S", help="of the mutants, drawn at random; default 1"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    arguments = parser.parse_args(argv)
    rng = random.Random(arguments.seed)
    chosen = [mutant for file in arguments.files for mutant in mutants(file, arguments.share, rng)]
    rng.shuffle(chosen)  # a job that is stopped early has still seen all files
    load_packages()
    noticed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="jaxllm-mutants-") as work:
        for mutant, code in verdicts(chosen, Path(work)):
            noticed[mutant.file] += code != 0
            print(f"{code} {mutant.file}:{mutant.line} {mutant.operator}", file=sys.stderr, flush=True)
            if code == 0:
                print(f"survived: {mutant.file}:{mutant.line} {mutant.operator}\n{mutant.diff()}", flush=True)
    for file, number in Counter(mutant.file for mutant in chosen).items():
        print(f"{file}: {noticed[file]} of {number} noticed")
    print(f"all: {noticed.total()} of {len(chosen)} noticed")
    return 0 if noticed.total() == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
