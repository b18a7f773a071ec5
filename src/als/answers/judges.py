"""The judges by name: what --judge chooses between.

    als          the toolkit's own: `als.answers.extract` finds the answer, `als.answers.judge` compares it
    math_verify  plain math-verify on the whole completion, as lighteval does
    lm_eval      lm-evaluation-harness's rules: gsm8k's flexible-extract, hendrycks_math500 and aime24

The last two exist so that a run can be judged in the way that published accuracies were.
"""

from __future__ import annotations

import importlib

from als.answers.thinking import answer_part
from als.records import Verdict

_MODULES = {"als": "judge", "math_verify": "math_verify_judge", "lm_eval": "lm_eval_judge"}
"""Judge -> the module of this package whose `judge_completion` it is; imported when it is used."""
JUDGES = tuple(_MODULES)


def judge_by(judge: str, completion_text: str, gold: str, *, benchmark: str, prompt_idx: int) -> Verdict:
    """Judge a completion by what follows its reasoning block; one that never closes the block is wrong.

    Args:
        judge: one of JUDGES.
        completion_text: what the model generated.
        gold: the gold answer alone.
        benchmark: how the gold answer is to be read.
        prompt_idx: the solver prompt; only the judge als reads JSON where JSON was asked for.
    """
    answer = answer_part(completion_text)
    if answer is None:
        return Verdict(None, gold, correct=False, rule=None)
    module = importlib.import_module(f"als.answers.{_MODULES[judge]}")
    verdict: Verdict = module.judge_completion(answer, gold, benchmark=benchmark, prompt_idx=prompt_idx)
    return verdict
