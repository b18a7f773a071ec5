"""The one exception for what the person at the keyboard can put right.

It knows nothing of the rest of the package. The command-line layer shows a `UserError` as one sentence
without a traceback and exits with 2; every other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
    """A mistake in the input: one sentence that says what, the value, what is allowed, what to do."""
