"""The two files in which GPT-2's vocabulary was published, read and checked by tiktoken."""

from pathlib import Path

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file

# sha256 as tiktoken_ext/openai_public.py states them.
VOCAB_BPE_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
ENCODER_JSON_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
# tiktoken's cache names a file by the sha1 of its URL.
CACHED = {"vocab.bpe": "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
           "encoder.json": "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6"}  # fmt: skip


def read_tokens(vocab_bpe: str | Path | None, encoder_json: str | Path | None) -> list[bytes]:
    """The 50,256 tokens in the order of their ranks. Raises InputError as `BPETokenizer.gpt2` does."""
    if (vocab_bpe is None) != (encoder_json is None):
        raise InputError("GPT-2's vocabulary is two files; give both vocab_bpe and encoder_json, or neither.")
    if vocab_bpe is None or encoder_json is None:
        ranks = _from_cache()
    else:
        ranks = _from_files(Path(vocab_bpe), Path(encoder_json))
    return sorted(ranks, key=ranks.__getitem__)


def _from_files(vocab_bpe: Path, encoder_json: Path) -> dict[bytes, int]:
    from tiktoken.load import check_hash, data_gym_to_mergeable_bpe_ranks

    for path, digest in ((vocab_bpe, VOCAB_BPE_SHA256), (encoder_json, ENCODER_JSON_SHA256)):
        try:
            content = read_file(path)
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {error.strerror}; give GPT-2's vocab.bpe and encoder.json."
            ) from None
        if not check_hash(content, digest):
            raise InputError(f"{path} is not the file that OpenAI published (sha256 {digest}); fetch it again.")
    return data_gym_to_mergeable_bpe_ranks(str(vocab_bpe), str(encoder_json), VOCAB_BPE_SHA256, ENCODER_JSON_SHA256)


def _from_cache() -> dict[bytes, int]:
    from tiktoken_ext.openai_public import gpt2

    try:
        return gpt2()["mergeable_ranks"]
    except (OSError, ValueError):  # errors of requests are OSErrors; tiktoken raises ValueError for a wrong hash
        put = " and ".join(f"{name} as {cached}" for name, cached in CACHED.items())
        raise InputError(
            "GPT-2's vocabulary is not cached and cannot be downloaded: put "
            f"{put} into a folder and set TIKTOKEN_CACHE_DIR to it, or, in Python, give the two files by path."
        ) from None
