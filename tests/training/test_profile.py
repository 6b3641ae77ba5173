"""Where a step's time goes: the table from small traces made by hand, and from a real run."""

import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from runs import TEXT, TINY, lines

import train.loop
from train.cli import main
from train.runtime.profile import NOWHERE, ProfileRow, Span, describe_table, profile_table, profiled, shared_time

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]

HLO = """HloModule jit_step, is_scheduled=true

FileNames
1 "/home/me/jaxllm/jaxllm/layers.py"
2 "/home/me/.venv/lib/python3.12/site-packages/flax/linen/module.py"
3 "/home/me/.venv/lib/python3.12/site-packages/jaxllm_train/step.py"
4 "/usr/lib/python3.12/contextlib.py"

FunctionNames
1 "MLP.__call__"
2 "wrapped"
3 "make_step.<locals>.train_step"

FileLocations
1 {file_name_id=1 function_name_id=1 line=12 end_line=12 column=1 end_column=2}
2 {file_name_id=2 function_name_id=2 line=34 end_line=34 column=1 end_column=2}
3 {file_name_id=3 function_name_id=3 line=56 end_line=56 column=1 end_column=2}
4 {file_name_id=4 function_name_id=2 line=78 end_line=78 column=1 end_column=2}

StackFrames
1 {file_location_id=3 parent_frame_id=1}
2 {file_location_id=4 parent_frame_id=2}
3 {file_location_id=2 parent_frame_id=3}
4 {file_location_id=1 parent_frame_id=4}

%body (p: f32[4]) -> f32[4] {
  %dot.3 = f32[4]{0} dot(%p, %p), metadata={op_name="jit(step)/block_0/mlp/dot" stack_frame_id=4}
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %while.1 = (s32[], /*index=1*/f32[4]{0}) while(%p), condition=%c, body=%body
  %dot.12 = f32[4]{0} dot(%p, %p), metadata={op_name="jit(step)/block_1/mlp/dot" stack_frame_id=4}
  %add_fusion.1.2 = f32[4]{0} fusion(%p), calls=%f, metadata={op_name="jit(step)/add" stack_frame_id=3}
  %dot.4 = f32[4]{0} dot(%p, %p), metadata={op_name="jit(step)/transpose(jvp(GPT))/dot" stack_frame_id=4}
  %copy.5 = f32[4]{0} copy(%p), metadata={op_name="jit(step)/block_3/copy"}
  %copy.6 = f32[4]{0} copy(%p), metadata={op_name="jit(step)/block_4/copy"}
  ROOT %copy.7 = f32[4]{0} copy(%p)
}
"""
DOT, STEP = "jaxllm/layers.py:12 MLP.__call__", "jaxllm_train/step.py:56 train_step"


def event(name: str, begin: float, end: float, tid: int = 1, pid: int = 7, module: str = "jit_step") -> dict[str, Any]:
    args = {"hlo_op": name, "hlo_module": module} if module else {}
    return {"ph": "X", "pid": pid, "tid": tid, "ts": begin, "dur": end - begin, "name": name, "args": args}


def rows(events: list[dict[str, Any]], n_steps: int = 1) -> dict[tuple[str, str], tuple[float, float, float]]:
    table = profile_table(events, HLO, n_steps)
    assert sum(r.share for r in table) == pytest.approx(1)
    assert [r.ms for r in table[:-1]] == sorted((r.ms for r in table[:-1]), reverse=True)
    return {(r.kind, r.source): (pytest.approx(r.ms), pytest.approx(r.share), r.calls) for r in table}


def test_rows_are_kinds_and_source_lines() -> None:
    """Layers are summed. The source is the innermost frame of our code; without one, the path of names."""
    names = ["dot.3", "dot.12", "add_fusion.1.2", "dot.4", "copy.5", "copy.6", "copy.7", "unknown.8"]
    events = [event(name, 1000 + 1000 * i, 2000 + 1000 * i) for i, name in enumerate(names)]
    assert rows(events) == {
        ("dot", DOT): (2, 2 / 8, 2),
        ("add_fusion", STEP): (1, 1 / 8, 1),
        ("dot", f"{DOT} (backward)"): (1, 1 / 8, 1),
        ("copy", "jit(step)/block_*/copy"): (2, 2 / 8, 2),
        ("copy", ""): (1, 1 / 8, 1),
        ("unknown", ""): (1, 1 / 8, 1),
        (NOWHERE, ""): (0, 0, 0),
    }


def test_time_adds_up() -> None:
    """Two steps of 10 ms: operations that overlap, one that ends on another thread, a loop around others, and gaps."""
    events = []
    for begin in (0, 10_000):
        events += [
            event("while.1", begin, begin + 8000),  # its body is counted, not itself
            event("dot.3", begin, begin + 1000),  # dispatched in 1 ms, done after 4
            event("end: dot.3", begin + 4000, begin + 4001, tid=2, module=""),
            event("add_fusion.1.2", begin + 2000, begin + 6000, tid=3),  # 2 ms of it overlap
            event("copy.7", begin + 8000, begin + 10_000),
        ]
    assert rows(events, n_steps=2) == {
        ("dot", DOT): (3, 0.3, 1),
        ("add_fusion", STEP): (3, 0.3, 1),
        ("copy", ""): (2, 0.2, 1),
        (NOWHERE, ""): (2, 0.2, 0),
    }


def test_the_time_is_that_to_the_last_end() -> None:
    """The operation that starts first may end last, and the one that ends first may have started last."""
    assert rows([event("dot.3", 0, 10_000), event("copy.7", 2000, 4000)]) == {
        ("dot", DOT): (9, 0.9, 1), ("copy", ""): (1, 0.1, 1), (NOWHERE, ""): (0, 0, 0),
    }  # fmt: skip
    assert rows([event("dot.3", 1000, 3000), event("copy.7", 0, 10_000)]) == {
        ("copy", ""): (9, 0.9, 1), ("dot", DOT): (1, 0.1, 1), (NOWHERE, ""): (0, 0, 0),
    }  # fmt: skip


def test_operations_of_no_length_have_no_time() -> None:
    """The trace holds operations shorter than the clock's unit; the time of the others is as without them."""
    spans = [Span(begin, end, "", "") for begin, end in ((5, 5), (0, 10), (20, 30), (0, 0), (30, 30))]
    assert shared_time(spans) == [0, 10, 10, 0, 0]
    assert shared_time([Span(5, 5, "", "")] * 2) == [0, 0]
    assert rows([event("copy.7", 500, 500), event("dot.3", 0, 1000)]) == {
        ("dot", DOT): (1, 1, 1), ("copy", ""): (0, 0, 1), (NOWHERE, ""): (0, 0, 0),
    }  # fmt: skip
    assert profile_table([event("copy.7", 500, 500)], HLO, 1) == []  # no time at all, so there are no shares


def test_another_program_between_two_steps_has_a_row() -> None:
    events = [event("dot.3", 0, 1000), event("dot.3", 1000, 4000, module="jit_eval_step"), event("dot.3", 4000, 5000)]
    assert rows(events) == {
        ("dot", DOT): (2, 0.4, 2),
        ("another program", "jit_eval_step"): (3, 0.6, 1),
        (NOWHERE, ""): (0, 0, 0),
    }


def test_on_a_gpu_the_streams_count() -> None:
    """A trace in XLA's format: kernels on streams, the same on derived rows, and copies without a name."""
    names = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "/device:GPU:0"}},
        {"ph": "M", "pid": 1, "tid": 13, "name": "thread_name", "args": {"name": "Stream #13(Compute)"}},
        {"ph": "M", "pid": 1, "tid": 14, "name": "thread_name", "args": {"name": "Stream #14(MemcpyH2D)"}},
        {"ph": "M", "pid": 1, "tid": 99, "name": "thread_name", "args": {"name": "XLA Ops"}},
        {"ph": "M", "pid": 7, "name": "process_name", "args": {"name": "/host:CPU"}},
        {"ph": "M", "pid": 7, "tid": 1, "name": "thread_name", "args": {"name": "Stream of thought"}},
        {},  # XLA ends the list with this
    ]
    kernel = event("dot.3", 0, 1000, tid=13, pid=1) | {"name": "ampere_sgemm_64x64_tn"}
    events = [
        *names, kernel, event("dot.3", 0, 1000, tid=99, pid=1), event("dot.3", 0, 9000),
        event("MemcpyH2D", 1500, 2000, tid=14, pid=1, module=""),
    ]  # fmt: skip
    assert rows(events) == {
        ("dot", DOT): (1, 0.5, 1),
        ("MemcpyH2D", ""): (0.5, 0.25, 1),
        (NOWHERE, ""): (0.5, 0.25, 0),
    }


def test_nothing_recorded() -> None:
    assert profile_table([{}], HLO, 1) == []
    assert "no operation" in describe_table([], 1)[0]


def test_the_printed_table() -> None:
    table = [ProfileRow(3.0, 0.3, 2, "dot", DOT)] + [ProfileRow(0.2, 0.02, 0.5, f"copy_{i}", "") for i in range(30)]
    printed = describe_table([*table, ProfileRow(1.0, 0.1, 0, NOWHERE, "")], 4)
    assert printed[0].startswith("4 steps profiled, 10.00 ms each")
    assert printed[2].split() == ["3.000", "30.0%", "2", "dot", *DOT.split()]
    assert len(printed) == 2 + 20 + 2 and all(len(line) <= 120 for line in printed)
    assert printed[-2].split() == ["2.200", "22.0%", "5.5", "11", "smaller", "rows"]
    assert printed[-1].split() == ["1.000", "10.0%", *NOWHERE.split()]


def test_a_profile_compiles_the_step_once_and_changes_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[str] = []

    def listen(name: str, *_: object, **__: object) -> None:
        if name.endswith("backend_compile_duration"):
            compiled.append(name)

    jitted = jax.jit(lambda state, inputs, targets: (jnp.tanh(state @ inputs) + targets, {}), donate_argnums=0)
    state, x = jnp.ones((8, 8)), np.ones((8, 8), np.float32)
    key = jax.config.jax_compilation_cache_include_metadata_in_key
    jax.monitoring.register_event_duration_secs_listener(listen)
    with profiled(2, tmp_path) as recorder:
        step = jitted.lower(state, x, x).compile()
        for _ in range(6):
            state, _ = recorder(step, state, x, x)
            if recorder.complete:
                recorder.show(step, state)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == 1
    assert jax.config.jax_compilation_cache_include_metadata_in_key == key
    printed = capsys.readouterr().out
    assert printed.count("2 steps profiled") == 1 and "test_profile.py" in printed
    jax.profiler.start_trace(tmp_path)  # possible only if the first has ended
    jax.profiler.stop_trace()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("profile")
    (folder / "text.txt").write_text(TEXT)
    tiny = TINY.replace("steps = 12", "steps = 6").replace("dropout = 0.1\n", "")
    (folder / "tiny.toml").write_text(f'[data]\nsource = "{folder}/text.txt"\n{tiny}')
    return str(folder / "tiny.toml")


def test_a_run(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", config, "--out", str(tmp_path / "plain")]) == 0
    assert main(["train", config, "--out", str(tmp_path / "run"), "--profile", "2"]) == 0
    printed = capsys.readouterr().out
    assert "2 steps profiled" in printed and NOWHERE in printed
    assert re.search(r"jaxllm/(fast/)?(layers|attention|loss)\.py:\d", printed)
    assert len(list((tmp_path / "run" / "profile").rglob("*.trace.json.gz"))) == 1
    plain, run = ([r["train_loss"] for r in lines(tmp_path / name)] for name in ("plain", "run"))
    assert run == plain and len(run) == 6


def test_a_run_stopped_while_it_was_profiled_goes_on(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed_at_step_3(*args: Any) -> object:
        if args[4] == 3:  # the step
            raise KeyboardInterrupt
        return batch(*args)

    batch, run = train.loop.batch, tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train.loop, "batch", killed_at_step_3)
        assert main(["train", config, "--out", str(run), "--profile", "4"]) == 130
    assert "profiled" not in capsys.readouterr().out
    assert main(["train", "--out", str(run), "--resume", "--profile", "3"]) == 0
    assert "3 steps profiled" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("n_steps", ["0", "-1", "5"])
def test_a_wrong_number_of_steps(n_steps: str, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", config, "--out", str(run), "--profile", n_steps]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxllm train: --profile is {n_steps}, but it must be") and error.count("\n") == 1
    assert not run.exists()
