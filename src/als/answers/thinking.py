"""Reasoning blocks: what stands between <think> and </think> is not part of the answer.

Qwen3, DeepSeek-R1 and models like them reason in such a block first.
"""

OPEN, CLOSE = "<think>", "</think>"


def answer_part(completion: str) -> str | None:
    """What follows the last closed block; None where a block is opened and never closed.

    A text that closes a block without opening it counts as well: a chat template may have opened it.
    """
    answer = completion.rpartition(CLOSE)[2]
    return None if OPEN in answer else answer


def opened_block(prompt: str) -> str:
    """The <think> that a prompt ends with, white space behind it included; empty where it has none."""
    bare = prompt.rstrip()
    return prompt[len(bare) - len(OPEN) :] if bare.endswith(OPEN) else ""
