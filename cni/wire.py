"""The conversation between the executable and the agent, as bytes; docs/cni.md describes it.

A call is each CNI_* variable as `NAME=VALUE`, then an empty string, every string ended by a zero byte, then standard
input up to the end of the stream. A spooled DEL holds the same bytes. The answer is the exit status in decimal, a
newline, and standard output.
"""

from __future__ import annotations

from cni.errors import CniError, ErrorCode

CALL_LIMIT = (1 << 20) + (1 << 18)
"""Bytes of the longest call: 1 MiB of standard input, and plenty for the environment."""


def decode_call(call: bytes) -> tuple[dict[str, str], bytes]:
    """Environment and standard input. Raises CniError with DECODING_FAILURE or INVALID_ENVIRONMENT."""
    environment: dict[str, str] = {}
    position = 0
    while (end := call.find(b"\0", position)) > position:
        name, separator, value = call[position:end].partition(b"=")
        if not separator:
            break
        try:
            environment[name.decode()] = value.decode()
        except UnicodeDecodeError:
            raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"{name!r}: is not UTF-8") from None
        position = end + 1
    if end != position:
        raise CniError(ErrorCode.DECODING_FAILURE, "the call is not the environment, an empty string, standard input")
    return environment, call[end + 1 :]


def encode_answer(exit_status: int, stdout: bytes) -> bytes:
    """What the executable prints and exits with."""
    return b"%d\n%b" % (exit_status, stdout)
