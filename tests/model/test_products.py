"""Matrix products by other libraries: the same numbers as the reference, and a reason where one cannot be used."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import compiled_for
from libraries import INSTALLED, computes
from models import TINY, VARIANTS, random_tokens

from jaxllm import GPT
from jaxllm.compare import compare_model, random_parameters
from jaxllm.compare.report import Report
from jaxllm.fast import layers, products
from jaxllm.fast.native import build, libraries
from jaxllm.fast.native.libraries import LIBRARIES, NoLibraryError
from jaxllm.fast.platform import compiling_for, on_one_cpu, platform
from jaxllm.fast.products import product, using
from jaxllm.utils.private_folder import VARIABLE

pytestmark = pytest.mark.usefixtures("quick_compilation")  # a library computes as it does

COMPUTED = [(name, dtype) for name in INSTALLED for dtype in LIBRARIES[name].dtypes]
# Odd sizes, single rows and columns, and one large enough for several parts in each direction.
FORMS = [
    ("...d,df->...f", (4, 33, 70), (70, 51)), ("...d,df->...f", (1, 70), (70, 51)), ("...d,df->...f", (900, 70), (70, 51)),
    ("...d,df->...f", (30, 700), (700, 900)), ("...f,df->...d", (4, 33, 51), (70, 51)), ("...f,df->...d", (9, 500), (900, 500)),
    ("...d,...f->df", (4, 33, 70), (4, 33, 51)), ("...d,...f->df", (800, 9), (800, 400)), ("...d,...f->df", (800, 400), (800, 90)), ("...d,...f->df", (5, 7, 1), (5, 7, 33)),
    ("...tk,...sk->...ts", (6, 33, 16), (6, 40, 16)), ("...ts,...sk->...tk", (2, 3, 33, 40), (2, 3, 40, 16)),
    ("...ts,...tk->...sk", (6, 33, 40), (6, 33, 16)), ("ntk,nsk->nts", (40, 64, 16), (40, 90, 16)),
    ("td,vd->tv", (20, 30), (500, 30)), ("tv,td->vd", (20, 500), (20, 30)), ("tv,vd->td", (20, 500), (500, 30)),
]  # fmt: skip


def normal(shape: tuple[int, ...], dtype: str, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def in_numpy(axes: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if axes == "...d,...f->df":  # NumPy sums no axes that an ellipsis stands for
        return a.reshape(-1, a.shape[-1]).T @ b.reshape(-1, b.shape[-1])
    return np.einsum(axes, a, b)


def skip_unless_computed(library: str, dtype: str) -> None:
    if dtype == "bfloat16" and not computes(library, dtype):
        pytest.skip(f"{library} has no bfloat16 for this processor")


def is_native(function: Any, *arguments: Any) -> bool:
    return build.TARGET in jax.jit(function).lower(*arguments).as_text()


def test_a_function_is_traced_again_for_another_platform() -> None:
    on_tpu = jax.jit(lambda: platform() == "tpu")
    assert not on_tpu()
    with compiling_for("tpu"):
        assert on_tpu() and not on_one_cpu()
    assert not on_tpu()


@pytest.mark.parametrize(("library", "dtype"), COMPUTED)
@pytest.mark.parametrize(("axes", "a", "b"), FORMS)
def test_a_product_is_numpys(axes: str, a: tuple[int, ...], b: tuple[int, ...], library: str, dtype: str) -> None:
    """In every form, with results in the operands' dtype and in float32."""
    skip_unless_computed(library, dtype)
    x, y = normal(a, dtype, 0), normal(b, dtype, 1)
    expected = in_numpy(axes, np.asarray(x, float), np.asarray(y, float))
    for result in (dtype, "float32"):
        with using(library):
            got = product(axes, x, y, result)
            assert is_native(partial(product, axes, dtype=result), x, y)
        assert got.dtype == result and got.shape == expected.shape
        tolerance = (4e-3 if result == "bfloat16" else 1e-6) * np.abs(expected).max()
        np.testing.assert_allclose(np.asarray(got, float), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("library", INSTALLED)
def test_xla_computes_what_a_library_does_not(library: str) -> None:
    x = normal((3, 4), "float32", 0)
    with using(library):
        assert not is_native(partial(product, "td,vd->tv"), x.astype("float16"), x.astype("float16"))
        assert not is_native(partial(product, "td,vd->tv"), x[:0], x)
        assert not is_native(partial(product, "td,vd->tv"), x.astype("bfloat16"), x)
        with jax.enable_x64(True):
            assert not is_native(partial(product, "td,vd->tv"), x.astype("float64"), x.astype("float64"))
        assert is_native(partial(product, "td,vd->tv"), x.astype("bfloat16"), x.astype("bfloat16")) == (
            "bfloat16" in LIBRARIES[library].dtypes
        )
    assert not is_native(partial(product, "td,vd->tv"), x, x)


@pytest.mark.parametrize("library", INSTALLED)
def test_a_product_can_be_batched(library: str) -> None:
    """`jax.vmap` over one operand or both gives the products of each."""
    a, b = normal((5, 6, 33, 16), "float32", 0), normal((5, 6, 40, 16), "float32", 1)
    scores = partial(product, "...tk,...sk->...ts")
    with using(library):
        np.testing.assert_allclose(jax.vmap(scores)(a, b), np.einsum("vntk,vnsk->vnts", a, b), rtol=0, atol=1e-5)
        one = jax.vmap(scores, (0, None))(a, b[0])
        np.testing.assert_allclose(one, np.einsum("vntk,nsk->vnts", a, b[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("library", INSTALLED)
def test_operands_that_do_not_fit_are_einsums(library: str) -> None:
    """They are broadcast, or refused, as by einsum."""
    a, b = normal((2, 3, 4, 8), "float32", 0), normal((1, 3, 5, 8), "float32", 1)
    with using(library):
        np.testing.assert_allclose(product("...tk,...sk->...ts", a, b), a @ b.swapaxes(-1, -2), rtol=0, atol=1e-5)
        for axes, y in (("td,df->tf", (6, 5)), ("...tk,...sk->...ts", (5, 7)), ("...d,...f->df", (3, 5))):
            with pytest.raises((TypeError, ValueError)):
                product(axes, a[0, 0], normal(y, "float32", 2))


@pytest.mark.long  # it compiles 700 programs
@pytest.mark.skipif("onednn" not in INSTALLED, reason="oneDNN is not installed")
def test_more_shapes_than_a_thread_keeps() -> None:
    """Once 512 shapes are prepared, others take their places."""
    with using("onednn"):
        for m in (*range(1, 700), *range(1, 20)):
            compute = jax.ffi.ffi_call(build.TARGET, jax.ShapeDtypeStruct((m, 1), "float32"))
            how = {name: np.int64(0) for name in ("library", "transpose_a", "transpose_b")}
            assert np.all(compute(np.full((m, 1), 2, "float32"), np.ones((1, 1), "float32"), **how) == 2)


@pytest.mark.parametrize(("library", "dtype"), COMPUTED)
@pytest.mark.parametrize(
    "variant", ["gpt2", *(pytest.param(variant, marks=pytest.mark.newest) for variant in ("llama", "untied"))]
)
def test_the_model_agrees_with_the_reference(library: str, dtype: str, variant: str) -> None:
    """Every intermediate and gradient within the bounds that hold for XLA's products."""
    skip_unless_computed(library, dtype)
    config = replace(TINY, **VARIANTS[variant])
    params = jax.device_get(random_parameters(GPT(config)))
    with using(library), compiled_for(dtype):
        rows, _ = compare_model(config, params, random_tokens(config), random_tokens(config, seed=1), dtype)
    report = Report.of(dtype, rows)
    assert report.passed, report


@pytest.mark.parametrize("library", INSTALLED)
def test_the_context_is_part_of_a_jitted_functions_key(library: str) -> None:
    """A function jitted under one choice is traced again under another, in the backward too."""
    x, w, b = normal((7, 5), "float32", 0), normal((5, 3), "float32", 1), normal((3,), "float32", 2)
    loss = jax.jit(jax.grad(lambda x, w, b: (layers.linear(x, w, b) ** 2).sum(), argnums=(0, 1, 2)))
    without = loss.lower(x, w, b).as_text()
    with using(library):
        assert loss.lower(x, w, b).as_text().count(f"@{build.TARGET}") == 4  # forward, x, w, and the bias
    assert loss.lower(x, w, b).as_text() == without and build.TARGET not in without


@pytest.mark.parametrize("library", INSTALLED)
def test_another_programs_threads_stay_as_they_are(library: str) -> None:
    """oneDNN computes with one OpenMP thread inside a task, and the calling thread has its number of threads after."""
    import ctypes

    openmp = ctypes.CDLL("libgomp.so.1")
    openmp.omp_set_num_threads(3)
    with using(library):
        jax.block_until_ready(product("td,vd->tv", normal((8, 4), "float32", 0), normal((6, 4), "float32", 1)))
    assert openmp.omp_get_max_threads() == 3


def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (build.register, build._compile_once, libraries.find, libraries.load):
        monkeypatch.setattr(sys.modules[function.__module__], function.__name__, function.__wrapped__)  # type: ignore[attr-defined]
    monkeypatch.setattr(libraries, "load", lambda name: [])
    monkeypatch.setattr(build, "load", lambda name: [])


@pytest.mark.parametrize(("compiler", "reason"), [
    ("no-such-compiler", "there is no C compiler 'no-such-compiler'; install one, or name yours in CC"),
    ("false", "false cannot compile product.c: exit code 1"), ("cc '", "CC is not a command: No closing quotation"),
    ("cc -include no-such.h", "cc cannot compile product.c: .*no-such.h: No such file"),
])  # fmt: skip
def test_a_compiler_that_fails(compiler: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh(monkeypatch)
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    with pytest.raises(NoLibraryError, match=reason.replace("(", r"\(")):
        build.register("onednn")
    assert not list((tmp_path / "cache").glob("native/*"))


def test_a_folder_that_others_can_write_into(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fresh(monkeypatch)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o777)
    tmp_path.chmod(0o700)
    with pytest.raises(
        NoLibraryError, match="others can write into .*native; choose a folder with JAXLLM_COMPILE_CACHE"
    ):
        build._compiled("product", build.TARGET)


def test_a_damaged_file_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The next process compiles it again."""
    fresh(monkeypatch)
    path = tmp_path / "product.so"
    path.write_bytes(b"not a library")
    with pytest.raises(NoLibraryError, match=r"product.so cannot be loaded: "):
        build._load(path, build.TARGET)
    assert not path.exists()


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(monkeypatch)
    monkeypatch.setitem(LIBRARIES, "onednn", replace(LIBRARIES["onednn"], packages=("no-such-package",)))
    with pytest.raises(NoLibraryError, match=r"it is not installed; pip install 'jaxllm\[blas\]' brings it"):
        libraries.find("onednn")
    monkeypatch.setattr(libraries.sys, "platform", "win32")
    with pytest.raises(NoLibraryError, match="it is used on Linux only"):
        libraries.find("onednn")


def test_a_library_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a function that is called, or a file that is no library."""
    for function in ("find", "load"):
        monkeypatch.setattr(libraries, function, getattr(libraries, function).__wrapped__)
    monkeypatch.setattr(libraries, "find", lambda name: "libc.so.6")
    with pytest.raises(NoLibraryError, match="libc.so.6 cannot be used: .*dnnl_engine_create"):
        libraries.load("onednn")
    monkeypatch.setattr(libraries, "find", lambda name: "no-such-file.so")
    with pytest.raises(NoLibraryError, match="no-such-file.so cannot be used: "):
        libraries.load("mkl")


@pytest.mark.skipif(not INSTALLED, reason="no library is installed")
def test_without_a_cache_the_code_is_compiled_for_the_process(tmp_path: Path) -> None:
    program = (
        "import jax.numpy as jnp; from jaxllm.fast.products import product, using\n"
        f"with using({INSTALLED[0]!r}): print(float(product('td,vd->tv', jnp.ones((2, 3)), jnp.ones((4, 3))).sum()))"
    )
    environment = os.environ | {VARIABLE: "off", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("24.0\n", 0), done.stderr
    assert not list(tmp_path.iterdir())


def test_the_default_is_xla() -> None:
    assert products.active() == products.XLA
