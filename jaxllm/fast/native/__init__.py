"""Matrix products by a library other than XLA: found (`libraries`), compiled against (`build`), called (`product.c`).

JAX's own headers (`jax.ffi.include_dir()`) have a C interface, so a file of C and the system's compiler are enough, and
the library that computes is one that is installed. Nothing is built or loaded before `jaxllm.fast.products` asks.
"""
