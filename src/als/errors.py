"""The one exception for what the person at the keyboard can put right, and how to tell that memory ran out.

It knows nothing of the rest of the package. The command-line layer shows a `UserError` as one sentence
without a traceback and exits with 2; every other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
    """A mistake in the input: one sentence that says what, the value, what is allowed, what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch.OutOfMemoryError on a GPU, MemoryError, or the plain RuntimeError of torch's
    CPU allocator."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
