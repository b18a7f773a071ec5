"""The four checks by which a model judges an answer of its own.

Each is a system and a user turn; each asks for a fixed last line, `Verdict: True` or `Verdict: False`.
Knows no model and no reward; `als.reward` asks and reads.
"""

CHECKS = ("calculation", "answer", "completeness", "understanding")

_ROLE = "You check a solution to a math problem. Be strict and brief."
_LAST_LINE = (
    "End with one last line that says exactly\nVerdict: True\nif the solution passes this check, or\n"
    "Verdict: False\nif it does not."
)

TASKS = {
    "calculation": "Check the calculations only. Do every calculation of the solution again by yourself and "
    "compare the results. The check is passed if none of them is wrong.",
    "answer": "Check the final answer only. Solve the problem by yourself, then compare. "
    "The check is passed if the solution's final answer is right.",
    "completeness": "Check completeness only. The check is passed if the solution answers all that the problem "
    "asks, leaves out no needed step, and states a final answer.",
    "understanding": "Check understanding only. The check is passed if the solution uses the facts of the problem "
    "as they are given and answers the question that was asked, not another one.",
}


def verifier_messages(check: str, *, question: str, completion: str) -> list[dict[str, str]]:
    """The conversation that puts one check to the model.

    Args:
        check: one of CHECKS.
        question: the problem's text.
        completion: the answer to be checked.
    """
    user = f"Problem:\n{question.strip()}\n\nSolution:\n{completion.strip()}\n\n{TASKS[check]}\n{_LAST_LINE}"
    return [{"role": "system", "content": _ROLE}, {"role": "user", "content": user}]
