"""Judge a finished run's answers again from their completions, by another judge; nothing is generated or written."""

from __future__ import annotations

from collections.abc import Sequence

from als.answers.judges import judge_by
from als.errors import UserError
from als.generation.self_consistency import elect
from als.records import ResultLine, Verdict, judged_again
from als.runlog import Json


def rejudge(lines: Sequence[ResultLine], config: Json, judge: str, *, folder: str) -> list[ResultLine]:
    """The same lines with the verdicts of `judge`.

    Where several samples voted, each is judged and the vote is held again. A line without an answer stays as it is.

    Args:
        lines: of one run.
        config: the run's config.json, which says how to read the gold answers.
        judge: one of JUDGES.
        folder: the run's, for the error.

    Raises:
        UserError: the configuration lacks benchmark or prompt.
    """
    if missing := [name for name in ("benchmark", "prompt_idx") if name not in config]:
        raise UserError(
            f"{folder!r} cannot be judged again: its config.json has no {' and no '.join(missing)}; "
            "leave that run out, or leave out --judge"
        )
    return [line if line.failed else judged_again(line, _verdict(line, config, judge)) for line in lines]


def _verdict(line: ResultLine, config: Json, judge: str) -> Verdict:
    where = {"benchmark": config["benchmark"], "prompt_idx": config["prompt_idx"]}
    samples = line.details.get("samples")
    if not samples:
        return judge_by(judge, line.completion, line.gold, **where)
    verdicts = [judge_by(judge, sample["completion"], line.gold, **where) for sample in samples]
    return elect(verdicts, line.gold, benchmark=config["benchmark"])[0]
