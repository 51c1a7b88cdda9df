"""Ids: a prefix and a ULID, monotonic in a process, so that they sort by creation.

Format: https://github.com/ulid/spec, in lower case.
"""

import os
import threading
import time
from typing import Literal

Prefix = Literal["asst", "thread", "msg", "run", "step", "call", "chatcmpl"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_DASHED = ("chatcmpl",)
"""As OpenAI's ids are written; the others have an underscore."""
_lock = threading.Lock()  # ids are made on the loop and in the writer thread
_last = 0


def new_id(prefix: Prefix) -> str:
    """An id such as `run_01jc3k...`: 48 bits of Unix milliseconds, then 80 random bits.

    Ids made in the same millisecond count up, so their order is that of creation.
    """
    global _last
    fresh = (time.time_ns() // 1_000_000) << _RANDOM_BITS | int.from_bytes(os.urandom(_RANDOM_BITS // 8))
    with _lock:
        same_or_past = fresh >> _RANDOM_BITS <= _last >> _RANDOM_BITS
        _last = number = _last + 1 if same_or_past else fresh
    separator = "-" if prefix in _DASHED else "_"
    return f"{prefix}{separator}" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
