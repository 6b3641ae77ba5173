"""Matrix products by other code than XLA's: a library, found (`libraries`) and called (`product.c`), and for a few rows
a kernel of our own (`few_rows.c`). `build` compiles both files.

JAX's own headers (`jax.ffi.include_dir()`) have a C interface, so a file of C and the system's compiler are enough.
Nothing is built or loaded before `jaxllm.fast.products` or `jaxllm.fast.few_rows` asks.
"""
