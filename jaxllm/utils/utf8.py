"""Text and its bytes in UTF-8: decoding, byte-order marks, lone surrogates."""

import codecs

from jaxllm.utils.errors import InputError

MARKS = {  # UTF-32 is first, because its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def to_utf8(text: str) -> bytes:
    """The text's bytes. Raises InputError for a lone surrogate, which has no form in UTF-8."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text holds a lone surrogate, {text[error.start]!r}, at position {error.start}; "
            "it is half of a character, remove or replace it."
        ) from None


def decoded(content: bytes, name: object) -> str:
    """The text of bytes in UTF-8, without a byte-order mark. Raises InputError, which calls it `name`, for others."""
    bare = without_mark(content, name)
    try:
        return bare.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(name, error, len(content) - len(bare)) from None


def without_mark(content: bytes, name: object) -> bytes:
    """The bytes of a text without the byte-order mark of UTF-8, which is not part of the text.

    Raises InputError, which calls the text `name`, where the mark is that of UTF-16 or UTF-32.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            raise InputError(
                f"{name} is {encoding}, as its byte-order mark says; convert it to UTF-8 first, for example with "
                f"iconv -f {encoding} -t UTF-8."
            )
    return content.removeprefix(codecs.BOM_UTF8)


def not_utf8(name: object, error: UnicodeDecodeError, offset: int = 0) -> InputError:
    """The error for a text whose bytes from `offset` on could not be decoded."""
    return InputError(
        f"{name} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset + error.start}; convert it "
        f"first, for example with iconv."
    )


def visible(content: bytes) -> str:
    r"""The text of the bytes, with everything escaped that is not UTF-8 or does not show as a character.

    >>> visible("é\n".encode() + b"\xff")
    'é\\n\\xff'
    """
    text = content.decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
