"""The records that travel through the toolkit: Problem -> Completion -> Verdict -> ResultLine.

Plain frozen dataclasses of text and numbers. They know no model, no tensor and no file; `runlog` and
`states` write a `ResultLine` as one line of JSON.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

FinishReason = Literal["stop", "length", "error"]


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def mask_numbers(text: str) -> str:
    """Put # in the place of every number written in digits, its separators included: `$1,250.50` -> `$#`."""
    return _NUMBER.sub("#", text)


def hash_question(question: str, *, masked: bool = False) -> str:
    """Identify a question by its text: 16 hex digits, blind to letter case and to white space.

    Args:
        question: the text.
        masked: be blind to its numbers too, so that problems made from one template are the same.
    """
    normalised = " ".join((mask_numbers(question) if masked else question).casefold().split())
    return hashlib.sha256(normalised.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Problem:
    """One question of a data set with its gold answer."""

    index: int
    """0-based row in the data set's split; stable across subsets and ranges."""
    question: str
    gold: str
    """The gold answer alone, without the solution that leads to it."""

    @property
    def problem_hash(self) -> str:
        """What identifies this problem across data sets and files; see `hash_question`."""
        return hash_question(self.question)


@dataclass(frozen=True)
class Completion:
    """What a model generated for one prompt."""

    text: str
    """Generated text without special tokens."""
    prompt_tokens: int
    completion_tokens: int
    """Tokens of this text, the one that ends the sequence included."""
    finish_reason: FinishReason
    """`stop`: the model ended its turn; `length`: it ran into max_new_tokens; `error`: there is no completion."""
    seconds: float
    """Wall-clock seconds, each step's shared out among the answers in flight; of all samples where several vote."""


@dataclass(frozen=True)
class Verdict:
    """A judged answer, with what is needed to see why it was judged so."""

    answer: str | None
    """The answer as extracted from the completion; None where there was none."""
    gold: str
    correct: bool
    rule: str | None
    """The name of the extraction rule that found the answer; None where none did."""
    error: str | None = None
    """Why the answer could not be compared, for example "time limit of 3 CPU seconds"; it then counts as wrong."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What only some judges record, such as lm_eval_strict."""


@dataclass(frozen=True)
class ResultLine:
    """One line of results.jsonl (and, with a label, of examples.jsonl)."""

    index: int
    problem_hash: str
    question: str
    prompt: str
    """The exact text that was given to the model, chat template included."""
    completion: str
    answer: str | None
    gold: str
    correct: bool
    prompt_tokens: int
    completion_tokens: int
    finish_reason: FinishReason
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)
    """What only some modes record, e.g. steered_fraction; written flat beside the other fields."""

    @property
    def failed(self) -> bool:
        """Whether this problem could not be answered or judged; `error` in the details says why."""
        return "error" in self.details

    @property
    def generated_tokens(self) -> int:
        """What the answer cost: more than its own tokens where samples or tried texts were discarded."""
        return int(self.details.get("generated_tokens", self.completion_tokens))

    def with_details(self, **more: Any) -> "ResultLine":
        """The same line with more details."""
        return replace(self, details={**self.details, **more})

    def without_trace(self) -> "ResultLine":
        """The same line without what was seen token by token, which is most of a steered one."""
        return replace(self, details={name: value for name, value in self.details.items() if name != "trace"})

    def to_json(self) -> dict[str, Any]:
        """The line as one flat dictionary."""
        line = asdict(self)
        details = line.pop("details")
        return {**line, **details}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "ResultLine":
        """Read what `to_json` wrote.

        Raises:
            KeyError: a field is missing.
            TypeError: a field holds another kind of value.
        """
        names = [f.name for f in fields(cls) if f.name != "details"]
        for name in names:
            _check_type(name, line[name])
        if "generated_tokens" in line:
            _check_type("generated_tokens", line["generated_tokens"])
        return cls(
            **{name: line[name] for name in names},
            details={key: value for key, value in line.items() if key not in names},
        )


_INTEGERS = ("index", "prompt_tokens", "completion_tokens", "generated_tokens")


def _check_type(name: str, value: object) -> None:
    """A results line's field: text, but for these."""
    if name in _INTEGERS:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif name == "correct":
        fits = isinstance(value, bool)
    elif name == "seconds":
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    else:
        fits = isinstance(value, str) or (name == "answer" and value is None)
    if not fits:
        raise TypeError(f"{name} is {value!r}")


def result_line(problem: Problem, prompt: str, completion: Completion, verdict: Verdict, **details: Any) -> ResultLine:
    """Put together what is known about one answered problem."""
    if verdict.error is not None:
        details = {"judge_error": verdict.error, **details}
    return ResultLine(
        index=problem.index,
        problem_hash=problem.problem_hash,
        question=problem.question,
        prompt=prompt,
        completion=completion.text,
        answer=verdict.answer,
        gold=verdict.gold,
        correct=verdict.correct,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        finish_reason=completion.finish_reason,
        seconds=completion.seconds,
        details={"rule": verdict.rule, **verdict.details, **details},
    )


def judged_again(line: ResultLine, verdict: Verdict) -> ResultLine:
    """The same line with another verdict, and without what only the earlier judge recorded."""
    details = {name: value for name, value in line.details.items() if name not in ("judge_error", "lm_eval_strict")}
    details |= {"rule": verdict.rule, **verdict.details}
    if verdict.error is not None:
        details["judge_error"] = verdict.error
    return replace(line, answer=verdict.answer, correct=verdict.correct, details=details)


def failure_line(
    problem: Problem, error: Exception, *, prompt: str = "", completion: Completion | None = None
) -> ResultLine:
    """The line of a problem that went wrong: a wrong answer, with the reason."""
    nothing = Completion("", prompt_tokens=0, completion_tokens=0, finish_reason="error", seconds=0.0)
    verdict = Verdict(answer=None, gold=problem.gold, correct=False, rule=None)
    reason = f"{type(error).__name__}: {error}"
    return result_line(problem, prompt, completion or nothing, verdict, error=reason)
