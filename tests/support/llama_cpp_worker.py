"""What llama.cpp makes of a GGUF file, through xllamacpp: a process of its own, because its threads do not end.

Reads JSON from standard input: `path` of the file, `ids` of a prompt, a `text`. Writes JSON to standard output:
`log_probs` of the next token [[id, log p], ...] for all ids, in float32 and with the cache in float32, and the `ids` of
the text.
"""

import json
import os
import sys
import urllib.request
from typing import Any


def main() -> None:
    import xllamacpp  # here, because pytest imports this module for its doctests

    asked = json.load(sys.stdin)
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.warmup, params.verbosity = asked["path"], 64, 1, False, 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)

    def post(name: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{server.listening_address}/{name}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return json.load(urllib.request.urlopen(request, timeout=60))

    # The bias makes it choose the letter a, because it reports nothing while a character is incomplete. The reported
    # log-probabilities are those without the bias.
    body = {"prompt": asked["ids"], "n_predict": 1, "n_probs": 2**16, "logit_bias": [[ord("a"), 1000]]}
    (first,) = post("completion", body)["completion_probabilities"]
    log_probs = [(one["id"], one["logprob"]) for one in first["top_logprobs"]]
    ids = post("tokenize", {"content": asked["text"], "add_special": True})["tokens"]
    print(json.dumps({"log_probs": log_probs, "ids": ids}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
