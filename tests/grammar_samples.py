"""Random documents that a schema's grammar lets through, byte by byte."""

from random import Random

from llguidance import LLMatcher, LLTokenizer

_BYTES = LLTokenizer("byte")
_CLOSING = frozenset(b'"]}')
_PRINTABLE = range(0x20, 0x7F)


def sample_document(grammar_json: str, rng: Random, *, limit: int = 400) -> str | None:
    """A document; None when it did not end within `limit` bytes.

    Prefers to close and to write ASCII, so that documents end and are read easily; all else that the
    grammar admits is still tried.
    """
    matcher = LLMatcher(_BYTES, f"%llguidance {{}}\nstart: %json {grammar_json}")
    text = bytearray()
    while len(text) <= limit:
        if matcher.is_stopped() or (matcher.is_accepting() and rng.random() < 0.7):
            return text.decode()
        mask = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        closing = [byte for byte in allowed if byte in _CLOSING]
        printable = [byte for byte in allowed if byte in _PRINTABLE]
        if closing and rng.random() < (0.25 if len(text) < limit / 2 else 0.97):
            choices = closing
        elif printable and rng.random() < 0.9:
            choices = printable
        else:
            choices = allowed
        if not choices:
            return text.decode()
        byte = rng.choice(choices)
        assert matcher.consume_token(byte), matcher.get_error()
        text.append(byte)
    return None


def admits(grammar_json: str, document_json: str) -> bool:
    """Whether a grammar lets a document through."""
    matcher = LLMatcher(_BYTES, f"%llguidance {{}}\nstart: %json {grammar_json}")
    text = document_json.encode()
    return matcher.try_consume_tokens(list(text)) == len(text) and matcher.is_accepting()
