"""The judges by name: what --judge chooses between.

    als          the toolkit's own: `als.answers.extract` finds the answer, `als.answers.judge` compares it
    math_verify  plain math-verify on the whole completion, as lighteval does
    lm_eval      lm-evaluation-harness's rules: gsm8k's flexible-extract, hendrycks_math500 and aime24

The last two exist so that a run can be judged in the way that published accuracies were.
"""

from collections.abc import Callable

from als.answers import lm_eval_judge, math_verify_judge
from als.answers.judge import judge_completion
from als.records import Verdict

DEFAULT = "als"
_JUDGES: dict[str, Callable[..., Verdict]] = {
    DEFAULT: judge_completion,
    "math_verify": math_verify_judge.judge_completion,
    "lm_eval": lm_eval_judge.judge_completion,
}
JUDGES = tuple(_JUDGES)


def judge_by(judge: str, completion_text: str, gold: str, *, benchmark: str, prompt_idx: int) -> Verdict:
    """Judge a completion.

    Args:
        judge: one of JUDGES.
        completion_text: what the model generated.
        gold: the gold answer alone.
        benchmark: how the gold answer is to be read.
        prompt_idx: the solver prompt; only the judge als reads JSON where JSON was asked for.
    """
    return _JUDGES[judge](completion_text, gold, benchmark=benchmark, prompt_idx=prompt_idx)
