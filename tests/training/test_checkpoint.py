"""Checkpoints: what is written, what is kept, and that changed bytes are never read."""

import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from jaxllm import GPT, GPTConfig, InputError
from jaxllm.tokenizers import CharTokenizer
from train.config import OptimizerConfig
from train.errors import DamagedError, DroppedError
from train.optimizer import make_optimizer
from train.runs.checkpoint import Checkpoints
from train.runs.manifest import read_manifest, rewrite
from train.state import TrainState, first_state

pytestmark = pytest.mark.usefixtures("quick_compilation")

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


@pytest.mark.newest
def test_what_was_saved_is_read_and_the_newest_first(two: Path) -> None:
    for step, want in ((None, 20), (10, 10), (20, 20)):
        got = Checkpoints(two).restore(state(0), step)
        jax.tree.map(np.testing.assert_array_equal, got, state(want))


def test_the_parameters_are_read_without_the_optimizer(two: Path) -> None:
    got = Checkpoints(two).restore(state(0)._replace(opt_state=None), 10)
    assert got.opt_state is None
    jax.tree.map(np.testing.assert_array_equal, got, state(10)._replace(opt_state=None))


def test_damage_is_noticed_where_the_parameters_alone_are_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checksums of all files are compared, and those of the arrays that were read."""
    import train.runs.checkpoint

    params_alone = state(0)._replace(opt_state=None)
    for path in every_file(copy):
        whole = path.read_bytes()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        with pytest.raises(DamagedError, match=path.name):
            Checkpoints(copy).check(20, params_alone)
        path.write_bytes(whole)

    def one_bit_off(*arguments: object) -> dict[str, object]:
        tree = read_arrays(*arguments)
        scale = np.array(tree["params"]["norm_final"]["scale"])
        scale.view(np.uint8)[0] ^= 1
        return tree | {"params": tree["params"] | {"norm_final": tree["params"]["norm_final"] | {"scale": scale}}}

    read_arrays = train.runs.checkpoint.read_arrays
    monkeypatch.setattr(train.runs.checkpoint, "read_arrays", one_bit_off)
    with pytest.raises(DamagedError, match="array params/norm_final/scale"):
        Checkpoints(copy).check(20, params_alone)


def test_the_state_saved_is_that_of_the_call(tmp_path: Path) -> None:
    """The next step overwrites the state's buffers while they are being written."""
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
    import train.runs.checkpoint

    def one_bit_off(*arguments: object) -> dict[str, object]:
        tree = read_arrays(*arguments)
        bias = np.array(tree["params"]["block_0"]["mlp"]["up"]["bias"])
        bias.view(np.uint8)[3] ^= 1
        tree["params"]["block_0"]["mlp"]["up"]["bias"] = bias
        return tree

    read_arrays = train.runs.checkpoint.read_arrays
    monkeypatch.setattr(train.runs.checkpoint, "read_arrays", one_bit_off)
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
    with pytest.raises(DamagedError, match="step 20 is damaged.*_METADATA is missing; step 10 is undamaged.*--step 10"):
        Checkpoints(copy).restore(state(0))
    (copy / "10" / "manifest.json").unlink()
    with pytest.raises(DamagedError, match="no other step is undamaged"):
        Checkpoints(copy).restore(state(0))


def test_leaving_out_what_is_damaged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "20" / "state" / "_METADATA").unlink()
    Checkpoints(copy).leave_out_damaged(state(0))
    assert "step 20 is left out" in capsys.readouterr().err
    assert sorted(p.name for p in copy.iterdir()) == ["10", "20.damaged"]
    assert int(Checkpoints(copy).restore(state(0)).step) == 10
    (copy / "10" / "state" / "_METADATA").unlink()
    with pytest.raises(InputError, match="no undamaged checkpoint"):
        Checkpoints(copy).leave_out_damaged(state(0))
    assert Checkpoints(copy).steps() == [10]  # without an undamaged checkpoint nothing is renamed


@pytest.mark.newest
@pytest.mark.parametrize(
    ("keep", "keep_best", "want"),
    [(2, 0, [4, 5]), (1, 1, [3, 5]), (2, 2, [1, 3, 4, 5]), (1, 3, [1, 2, 3, 5]), (9, 0, [1, 2, 3, 4, 5])],
)
def test_the_newest_stay_and_the_best(tmp_path: Path, keep: int, keep_best: int, want: list[int]) -> None:
    """Steps 2 and 4 have equal losses, so the newer is better; step 5 was not evaluated."""
    checkpoints = saved(tmp_path, {1: 2.2, 2: 2.5, 3: 2.1, 4: 9.0, 5: None}, keep, keep_best)
    assert checkpoints.steps() == want
    assert [p.name for p in tmp_path.iterdir() if not p.name.isdecimal()] == []
    if keep_best:
        assert checkpoints.best_step() == 3


def test_of_equal_losses_the_newer_is_the_best(tmp_path: Path) -> None:
    assert saved(tmp_path, {1: 2.0, 2: 2.0, 3: 2.5}).best_step() == 2


def test_a_loss_measured_later_is_added(copy: Path) -> None:
    checkpoints = Checkpoints(copy)
    checkpoints.add_losses(20, {"seconds": 1.0})  # nothing was evaluated
    assert checkpoints.best_step() == 10
    checkpoints.add_losses(20, {"val_loss": 2.25})
    assert checkpoints.best_step() == 20 and read_manifest(copy / "20").val_loss == 2.25
    jax.tree.map(np.testing.assert_array_equal, Checkpoints(copy).restore(state(0), 20), state(20))


def test_nothing_goes_before_what_replaces_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train.runs.checkpoint

    def seal(aside: Path, *rest: object) -> None:
        assert checkpoints.steps() == [1]
        raise OSError(28, "No space left on device")

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state(1), {}, FINGERPRINT)
        checkpoints.save(state(1), {}, FINGERPRINT)  # waits for the writing
        monkeypatch.setattr(train.runs.checkpoint, "seal", seal)
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


def test_what_a_running_run_drops_is_not_called_damaged(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run writes newer checkpoints after a step is chosen and before its files are read."""
    import train.runs.checkpoint

    def dropped_meanwhile(folder: Path, *rest: object) -> None:
        shutil.rmtree(folder)
        check_files(folder, *rest)

    check_files = train.runs.checkpoint.check_files
    monkeypatch.setattr(train.runs.checkpoint, "check_files", dropped_meanwhile)
    with pytest.raises(DroppedError, match="step 10 of .* was dropped for a newer one"):
        Checkpoints(copy).restore(state(0), 10)
