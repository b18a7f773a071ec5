"""The solver prompts: how a problem is put to the model.

    solver_messages("What is 2 + 3?", benchmark="arithmetic", prompt_idx=0)

Index 0 asks for steps and a boxed answer, index 1 for a JSON object. Both come in one wording for benchmarks
whose answers are numbers and one for any mathematical expression. They are short, because a model of 135M
parameters has to follow them. Nothing here knows a tokenizer or a chat template, nor how an answer is read.
"""

from als.benchmarks import benchmark_named
from als.errors import UserError

BOXED_IDX, JSON_IDX = 0, 1
PROMPT_INDICES = (BOXED_IDX, JSON_IDX)

JSON_KEYS = ("thought process", "final answer")
"""The keys of the object that index 1 asks for; the reader of answers looks for the same ones."""
FREE_TEXT_KEY, ANSWER_KEY = JSON_KEYS

QUESTION_SLOT = "[[question]]"

BOXED_SYSTEM = {
    "number": "You are a helpful assistant. Reason step by step and put the final answer in \\boxed{}.",
    "math": "You are a helpful assistant. Reason step by step and put the final answer, as LaTeX, in \\boxed{}.",
}
BOXED_USER = dict.fromkeys(BOXED_SYSTEM, QUESTION_SLOT)

JSON_SYSTEM = dict.fromkeys(BOXED_SYSTEM, "You solve math problems. You reply with one JSON object and nothing else.")
# The form comes after the question: small models follow what they read last, and an example more than a description.
_JSON_FORM = (
    QUESTION_SLOT
    + '\n\nReply with one JSON object on one line. "thought process" is your whole reasoning, step by step. '
    '"final answer" is the answer alone{answer_form}. For the question "{question}" the reply would be:\n'
)
JSON_USER = {
    "number": _JSON_FORM.format(
        answer_form="", question="A pen costs 3 dollars and a book 12 dollars. What do 2 pens and 1 book cost together?"
    )
    + '{"thought process": "2 pens cost 2 * 3 = 6 dollars. The book costs 12 dollars. Together they cost '
    '6 + 12 = 18 dollars.", "final answer": "18"}',
    "math": _JSON_FORM.format(answer_form=", as LaTeX", question="What is half the area of a circle of radius 3?")
    + r'{"thought process": "The area of a circle of radius r is \\pi r^2. The radius is 3, so the area is 9\\pi. '
    r'Half of it is 9\\pi divided by 2, which is \\frac{9\\pi}{2}.", "final answer": "\\frac{9\\pi}{2}"}',
}

DEFAULT_PREFILLS = {BOXED_IDX: "", JSON_IDX: f'{{"{FREE_TEXT_KEY}": "'}
"""How the assistant's answer begins unless --prefill says otherwise: small models write no JSON of their own accord."""

_TEMPLATES = {BOXED_IDX: (BOXED_SYSTEM, BOXED_USER), JSON_IDX: (JSON_SYSTEM, JSON_USER)}


def solver_messages(
    question: str, *, benchmark: str, prompt_idx: int, system_prompt: str | None = None
) -> list[dict[str, str]]:
    """The system and the user turn that put a question to the model.

    Args:
        question: the problem's text, used as it is, braces and all.
        benchmark: the benchmark's name, which decides the wording.
        prompt_idx: one of PROMPT_INDICES.
        system_prompt: in place of the prompt's own system text; empty for no system turn.
    """
    _check(prompt_idx)
    system, user = _TEMPLATES[prompt_idx]
    family = benchmark_named(benchmark).family
    text = system[family] if system_prompt is None else system_prompt
    turn = {"role": "user", "content": user[family].replace(QUESTION_SLOT, question.strip())}
    return [{"role": "system", "content": text}, turn] if text else [turn]


def default_prefill(prompt_idx: int) -> str:
    """How the assistant's answer to a prompt begins by default; empty where the model begins it."""
    _check(prompt_idx)
    return DEFAULT_PREFILLS[prompt_idx]


def is_json(prompt_idx: int) -> bool:
    """Whether the prompt asks for a JSON object rather than a boxed answer."""
    _check(prompt_idx)
    return prompt_idx == JSON_IDX


def _check(prompt_idx: int) -> None:
    if prompt_idx not in PROMPT_INDICES:
        allowed = ", ".join(map(str, PROMPT_INDICES))
        raise UserError(f"prompt index {prompt_idx!r} does not exist: choose one of {allowed}")
