"""Checkpoints: what is written, what is kept, and that nothing but what was written is ever read."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from runs import write_config

from jaxllm import GPT, GPTConfig, InputError
from jaxllm.tokenizers import CharTokenizer
from train.checkpoint import Checkpoints
from train.cli import main
from train.config import OptimizerConfig
from train.errors import DamagedError, DroppedError
from train.folder import RunFolder
from train.manifest import read_manifest, rewrite
from train.step import TrainState, first_state, make_optimizer
from train.trained import load_run

pytestmark = pytest.mark.usefixtures("quick_compilation")

OLD = Path(__file__).parent / "golden" / "run-v1"
OPTIMIZER = make_optimizer(OptimizerConfig(), 100)
FIRST = partial(
    first_state, GPT(GPTConfig(vocab_size=5, context_length=4, d_model=4, n_layers=1, n_heads=1)), OPTIMIZER
)
FINGERPRINT = CharTokenizer("abc").fingerprint()


def state(step: int) -> TrainState:
    return FIRST(jax.random.key(step))._replace(step=jnp.asarray(step, jnp.int32))


def saved(folder: Path, losses: dict[int, float | None], keep: int = 100, keep_best: int = 0) -> Checkpoints:
    with Checkpoints(folder, keep, keep_best) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(state(step), {"model": {}}, FINGERPRINT, loss)
    return checkpoints


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    saved(folder, {10: 2.5, 20: None})
    return folder


@pytest.fixture
def copy(two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two, tmp_path / "copy"))


def test_what_was_saved_is_read_and_the_newest_first(two: Path) -> None:
    for step, want in ((None, 20), (10, 10), (20, 20)):
        got = Checkpoints(two).restore(state(0), step)
        jax.tree.map(np.testing.assert_array_equal, got, state(want))


def test_the_state_saved_is_that_of_the_call(tmp_path: Path) -> None:
    """Its buffers are given to the next step, which overwrites them, while the writing goes on."""
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        mine = state(1)
        checkpoints.save(mine, {}, FINGERPRINT)
        for _ in range(5):
            mine = overwrite(mine)
    jax.tree.map(np.testing.assert_array_equal, Checkpoints(tmp_path).restore(state(0)), state(1))


def test_the_manifest_says_what_there_is(two: Path) -> None:
    manifest = read_manifest(two / "10")
    assert (manifest.step, manifest.val_loss, manifest.tokenizer) == (10, 2.5, FINGERPRINT)
    assert manifest.versions.keys() >= {"jaxllm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "python"}
    there = {p.relative_to(two / "10").as_posix() for p in (two / "10").rglob("*") if p.is_file()}
    assert there == manifest.files.keys() | {"manifest.json"}
    kernel = manifest.arrays["params/block_0/mlp/up/kernel"]
    assert (kernel.shape, kernel.dtype) == ((4, 16), "float32")
    assert len(manifest.arrays) == len(jax.tree.leaves(state(0)))


def every_file(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "20").rglob("*") if path.is_file())


@pytest.mark.newest
def test_a_flipped_bit_anywhere_is_noticed_and_named(two: Path, copy: Path) -> None:
    rng = np.random.default_rng(0)
    checkpoints = Checkpoints(copy)
    for path in every_file(copy):
        whole = path.read_bytes()
        for place in {0, len(whole) - 1, *rng.integers(len(whole), size=2).tolist()}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
            with pytest.raises(DamagedError, match=path.name) as caught:
                checkpoints.check(20, state(0))
            assert "\n" not in str(caught.value)
        path.write_bytes(whole)
    checkpoints.check(20, state(0))


@pytest.mark.newest
def test_a_file_cut_short_or_missing_is_noticed_and_named(copy: Path) -> None:
    for path in every_file(copy):
        whole = path.read_bytes()
        for damage in (lambda p: p.write_bytes(p.read_bytes()[:-1]), Path.unlink, lambda p: p.write_bytes(b"")):
            damage(path)
            with pytest.raises(DamagedError, match=path.name):
                Checkpoints(copy).check(20, state(0))
            path.write_bytes(whole)


def test_an_array_that_is_read_as_another_is_noticed(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train.checkpoint

    def one_bit_off(*arguments: object) -> dict[str, object]:
        tree = read_arrays(*arguments)
        bias = np.array(tree["params"]["block_0"]["mlp"]["up"]["bias"])
        bias.view(np.uint8)[3] ^= 1
        tree["params"]["block_0"]["mlp"]["up"]["bias"] = bias
        return tree

    read_arrays = train.checkpoint.read_arrays
    monkeypatch.setattr(train.checkpoint, "read_arrays", one_bit_off)
    with pytest.raises(DamagedError, match="array params/block_0/mlp/up/bias"):
        Checkpoints(copy).check(20, state(0))


def test_a_manifest_of_another_step_or_that_leads_outside_is_refused(copy: Path) -> None:
    (copy / "20").rename(copy / "30")
    with pytest.raises(DamagedError, match="30 holds step 20"):
        Checkpoints(copy).check(30, state(0))
    manifest = read_manifest(copy / "30")
    for name in ("../10/manifest.json", "/etc/passwd", "state/../../10/manifest.json"):
        outside = msgspec.structs.replace(manifest, step=30, files={name: next(iter(manifest.files.values()))})
        rewrite(copy / "30", outside)
        with pytest.raises(DamagedError, match="cannot be in it"):
            Checkpoints(copy).check(30, state(0))


def test_damage_names_the_newest_whole_step(copy: Path) -> None:
    (copy / "20" / "state" / "_METADATA").unlink()
    with pytest.raises(DamagedError, match="step 20 is damaged.*_METADATA is missing; step 10 is whole.*--step 10"):
        Checkpoints(copy).restore(state(0))
    (copy / "10" / "manifest.json").unlink()
    with pytest.raises(DamagedError, match="no other step is whole"):
        Checkpoints(copy).restore(state(0))


def test_leaving_out_what_is_damaged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "20" / "state" / "_METADATA").unlink()
    Checkpoints(copy).leave_out_damaged(state(0))
    assert "step 20 is left out" in capsys.readouterr().err
    assert sorted(p.name for p in copy.iterdir()) == ["10", "20.damaged"]
    assert int(Checkpoints(copy).restore(state(0)).step) == 10
    (copy / "10" / "state" / "_METADATA").unlink()
    with pytest.raises(InputError, match="no checkpoint that is whole"):
        Checkpoints(copy).leave_out_damaged(state(0))
    assert Checkpoints(copy).steps() == [10]  # what cannot be helped is left as it is


@pytest.mark.newest
@pytest.mark.parametrize(
    ("keep", "keep_best", "want"),
    [(2, 0, [4, 5]), (1, 1, [3, 5]), (2, 2, [1, 3, 4, 5]), (1, 3, [1, 2, 3, 5]), (9, 0, [1, 2, 3, 4, 5])],
)
def test_the_newest_stay_and_the_best(tmp_path: Path, keep: int, keep_best: int, want: list[int]) -> None:
    """Of steps 2 and 4, which are equally good, the newer; step 5 was not evaluated."""
    checkpoints = saved(tmp_path, {1: 2.2, 2: 2.5, 3: 2.1, 4: 9.0, 5: None}, keep, keep_best)
    assert checkpoints.steps() == want
    assert [p.name for p in tmp_path.iterdir() if not p.name.isdecimal()] == []
    if keep_best:
        assert checkpoints.best_step() == 3


def test_of_equal_losses_the_newer_is_the_best(tmp_path: Path) -> None:
    assert saved(tmp_path, {1: 2.0, 2: 2.0, 3: 2.5}).best_step() == 2


def test_nothing_goes_before_what_replaces_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train.checkpoint

    def seal(aside: Path, *rest: object) -> None:
        assert checkpoints.steps() == [1]
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state(1), {}, FINGERPRINT)
        checkpoints.save(state(1), {}, FINGERPRINT)  # waits for the writing
        monkeypatch.setattr(train.checkpoint, "seal", seal)
        checkpoints.save(state(2), {}, FINGERPRINT)
        monkeypatch.undo()
        checkpoints.save(state(3), {}, FINGERPRINT)
    assert checkpoints.steps() == [3]


def test_what_was_left_unfinished_goes_when_a_run_begins_and_not_when_it_is_read(tmp_path: Path) -> None:
    saved(tmp_path, {1: None})
    (tmp_path / "2.tmp" / "state").mkdir(parents=True)
    assert Checkpoints(tmp_path).steps() == [1]
    Checkpoints(tmp_path).restore(state(0))
    assert (tmp_path / "2.tmp").exists()
    with Checkpoints(tmp_path):
        assert not (tmp_path / "2.tmp").exists()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    more = ["--set", "checkpoint.every=4", "--set", "checkpoint.keep=3", "--set", "checkpoint.keep_best=1"]
    assert main(["train", str(write_config(folder)), "--out", str(folder / "run"), *more]) == 0
    return folder / "run"


@pytest.fixture
def mine(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.newest
def test_commands_take_a_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    losses = {}
    for step in ("4", "8", "12", "best"):
        assert main(["evaluate", str(run), "--step", step]) == 0
        lines = capsys.readouterr().out.splitlines()
        losses[step] = float(lines[2].split()[2])
    assert losses["best"] == min(losses.values()) < losses["4"]
    assert main(["generate", str(run), "--prompt", "the", "--step", "4", "--max-new-tokens", "1"]) == 0
    assert main(["compare", str(run), "--step", "4", "--length", "2"]) == 0
    assert "step 4" in capsys.readouterr().out
    for wrong in ("5", "worst", "-1", ""):
        assert main(["generate", str(run), "--prompt", "the", f"--step={wrong}"]) == 2
        assert "holds 4, 8, 12, and best" in (error := capsys.readouterr().err) and error.count("\n") == 1


@pytest.mark.newest
def test_listing_and_verifying(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["checkpoint", "list", str(mine)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == ["step", "4", "8", "12"]
    assert sum(line.endswith("best") for line in listed) == 1
    assert main(["checkpoint", "verify", str(mine)]) == 0
    assert capsys.readouterr().out.count("every byte is as it was written") == 3
    (mine / "checkpoints" / "8" / "state" / "manifest.ocdbt").write_bytes(b"x")
    assert main(["checkpoint", "verify", str(mine)]) == 1
    out = capsys.readouterr().out
    assert out.count("every byte") == 2 and "8/state/manifest.ocdbt has 1 bytes, not" in out
    shutil.rmtree(mine / "checkpoints")
    for command in ("list", "verify"):
        assert main(["checkpoint", command, str(mine)]) == 2
        assert "holds no checkpoint yet" in capsys.readouterr().err


@pytest.mark.newest
def test_a_changed_config_or_tokenizer_is_named(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, tokenizer = (mine / "config.toml").read_text(), (mine / "tokenizer.json").read_text()
    resume = ["train", "--out", str(mine), "--resume", "--set", "train.steps=14"]
    read = ["generate", str(mine), "--prompt", "the", "--max-new-tokens", "1"]
    for old, new, commands, said in (
        (
            'activation = "gelu_tanh"',
            'activation = "relu"',
            (resume, read),
            "model.activation was 'gelu_tanh' when step 12",
        ),
        ("d_model = 16", "d_model = 32", (resume, read), "model.d_model was 16"),
        ("beta2 = 0.99", "beta2 = 0.9", (resume,), "optimizer.beta2 was 0.99 when step 12 was saved, but is 0.9"),
        ("seed = 0", "seed = 1", (resume,), "train.seed was 0"),
    ):
        (mine / "config.toml").write_text(config.replace(old, new))
        for command in commands:
            assert main(command) == 2
            assert said in (error := capsys.readouterr().err) and error.count("\n") == 1
    (mine / "config.toml").write_text(config.replace("every = 4", "every = 3"))
    assert main(read) == 0
    (mine / "config.toml").write_text(config)
    (mine / "tokenizer.json").write_text(tokenizer.replace('"a"', '"A"'))
    for command in (resume, read):
        assert main(command) == 2
        assert "not the one that step 12 was trained with" in capsys.readouterr().err


@pytest.mark.newest
def test_data_may_have_moved(mine: Path, tmp_path: Path) -> None:
    text = json.loads(f'"{(mine / "config.toml").read_text().split(chr(34))[1]}"')
    shutil.copy(text, tmp_path / "elsewhere.txt")
    config = (mine / "config.toml").read_text()
    (mine / "config.toml").write_text(config.replace(text, str(tmp_path / "elsewhere.txt")))
    assert main(["train", "--out", str(mine), "--resume", "--set", "train.steps=13"]) == 0


def test_resuming_falls_back_when_asked(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "checkpoints" / "12" / "manifest.json").write_bytes(b"{}")
    before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}
    assert main(["train", "--out", str(mine), "--resume", "--set", "train.steps=14"]) == 2
    error = capsys.readouterr().err
    assert (
        "the checkpoint of step 12 is damaged" in error and "--resume --fall-back" in error and error.count("\n") == 1
    )
    assert {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()} == before
    assert main(["train", "--out", str(mine), "--resume", "--fall-back"]) == 0
    assert "resuming after step 8 of 12" in capsys.readouterr().out
    assert load_run(mine).step == 12
    assert (mine / "checkpoints" / "12.damaged").exists()
    assert main(["train", "x.toml", "--fall-back"]) == 2
    assert "give it together with --resume" in capsys.readouterr().err


@pytest.mark.newest
def test_two_processes_do_not_train_in_one_folder(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(mine).locked():
        assert main(["train", "--out", str(mine), "--resume", "--set", "train.steps=14"]) == 2
    assert "another process is training in" in capsys.readouterr().err


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run that an earlier jaxllm left, in checkpoint format 1."""
    monkeypatch.chdir(shutil.copytree(OLD, tmp_path / "old"))
    yield Path(".")


def test_format_1_is_read_for_ever(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its validation loss is the one that was written down then."""
    assert main(["evaluate", str(old)]) == 0
    assert "validation loss  2.0473 nats per token" in capsys.readouterr().out
    assert main(["generate", str(old), "--prompt", "a", "--max-new-tokens", "3"]) == 0
    assert main(["checkpoint", "list", str(old)]) == 0
    assert "format 1" in capsys.readouterr().out
    assert main(["checkpoint", "verify", str(old)]) == 0
    assert main(["compare", str(old)]) == 0


def test_a_run_of_format_1_goes_on_in_format_2(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(old), "--resume", "--set", "train.steps=6", "--set", "checkpoint.keep=2"]) == 0
    assert Checkpoints(old / "checkpoints").steps() == [4, 6]
    assert main(["checkpoint", "verify", str(old)]) == 0
    assert "step         4  readable (format 1" in capsys.readouterr().out


def test_format_1_of_other_shapes_or_damaged_is_one_sentence(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (old / "config.toml").read_text()
    (old / "config.toml").write_text(config.replace("d_model = 4", "d_model = 8"))
    assert main(["evaluate", str(old)]) == 2
    error = capsys.readouterr().err
    assert "parameter block_0/attention/key/bias is (4,) in" in error and "but (8,) by config.toml" in error
    (old / "config.toml").write_text(config)
    (old / "checkpoints" / "4" / "default" / "_METADATA").write_bytes(b"")
    assert main(["evaluate", str(old)]) == 2
    assert "the checkpoint of step 4 is damaged" in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_what_a_running_run_drops_is_not_called_damaged(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the choice of a step and the reading of its files the run has written newer ones."""
    import train.checkpoint

    def dropped_meanwhile(folder: Path, *rest: object) -> None:
        shutil.rmtree(folder)
        check_files(folder, *rest)

    check_files = train.checkpoint.check_files
    monkeypatch.setattr(train.checkpoint, "check_files", dropped_meanwhile)
    with pytest.raises(DroppedError, match="step 10 of .* was dropped for a newer one"):
        Checkpoints(copy).restore(state(0), 10)


def test_a_reader_takes_the_newer_one(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import train.checkpoint

    def dropped_once(folder: Path, *rest: object) -> None:
        if folder.name == "12":
            folder.rename(folder.parent / "13.gone")
        check_files(folder, *rest)

    check_files = train.checkpoint.check_files
    monkeypatch.setattr(train.checkpoint, "check_files", dropped_once)
    assert load_run(mine).step == 8
    assert main(["checkpoint", "verify", str(mine)]) == 0
    (mine / "checkpoints" / "13.gone").rename(mine / "checkpoints" / "12")
    assert main(["generate", str(mine), "--prompt", "the", "--step", "12"]) == 2
    assert "was dropped for a newer one meanwhile" in capsys.readouterr().err


def test_falling_back_where_nothing_is_saved_begins_anew(mine: Path) -> None:
    shutil.rmtree(mine / "checkpoints")
    assert main(["train", "--out", str(mine), "--resume", "--fall-back", "--set", "train.steps=5"]) == 0
    assert load_run(mine).step == load_run(mine).config.train.steps == 5  # and what was set is written down


def test_a_finished_run_without_its_metrics_or_picture(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "loss.png").unlink()
    assert main(["train", "--out", str(mine), "--resume"]) == 0
    assert (mine / "loss.png").exists()
    (mine / "metrics.jsonl").unlink()
    assert main(["train", "--out", str(mine), "--resume"]) == 0
    assert "has all its 12 steps" in capsys.readouterr().out


def test_a_manifest_that_a_terminal_would_obey(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its sums are right, as whoever writes it can have them."""
    folder = mine / "checkpoints" / "12"
    manifest = read_manifest(folder)
    evil = {
        "versions": {"jaxllm": "\x1b[2J"},
        "arrays": {"\x1b[2J": next(iter(manifest.arrays.values()))},
        "config": {},
    }
    rewrite(folder, msgspec.structs.replace(manifest, **evil))
    assert main(["checkpoint", "list", str(mine)]) == 0
    for command in (["generate", str(mine), "--prompt", "a"], ["checkpoint", "verify", str(mine)]):
        assert main(command) == 2
    out, error = capsys.readouterr()
    assert "\x1b" not in out + error and "\\x1b[2J" in out
