"""`jaxllm.embeddings.token_logits` with fewer copies."""

from jaxtyping import Float

from jaxllm.array import Array
from jaxllm.fast.few_rows import rows_product
from jaxllm.fast.quantised_weights import PackedTable, Table
from jaxllm.precision import at_least_float32


def token_logits(table: Float[Table, "V D"], x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
    """`jaxllm.embeddings.token_logits`; the product reads half precision uncast and accumulates in float32."""
    dtype = at_least_float32(x).dtype
    if isinstance(table, PackedTable):
        return (x @ table.T.astype(x.dtype)).astype(dtype)
    return rows_product(x, table.astype(x.dtype), dtype)
