"""A comparison in words and as JSON: the page that compare_runs prints.

It knows `als.comparison` and no run folder.
"""

from __future__ import annotations

from dataclasses import asdict

from als.comparison import ALPHA, FEW, Comparison, Difference
from als.runlog import Json
from als.stats import accuracy_text, markdown_table, percent, rules_text, strict_text


def to_json(comparison: Comparison) -> Json:
    """Everything as JSON; of the problems, the indices of those helped and harmed."""
    content = asdict(comparison)
    del content["indices"]
    for one, written in zip(comparison.differences, content["differences"], strict=True):
        del written["changes"]
        for word, change in (("helped", 1), ("harmed", -1)):
            places = zip(comparison.indices, one.changes, strict=True)
            written[f"{word}_indices"] = [index for index, this in places if this == change]
        written |= {"found": one.found, "conclusion": conclusion(comparison, one)}
    return content


def markdown(comparison: Comparison) -> str:
    """The comparison as a page of Markdown: the arms, the differences, what follows, and how it was computed."""
    first, others = comparison.arms[0], comparison.arms[1:]
    subject = others[0].name if len(others) == 1 else f"{len(others)} arms"
    setting = ", ".join(f"{name} {value}" for name, value in comparison.setting.items() if value is not None)
    parts = [
        f"# {subject} against {first.name}",
        f"{comparison.n} problems that every arm answered, paired by problem hash: {setting or 'nothing in common'}.",
        _arms_table(comparison),
        _differences_table(comparison),
        "\n".join(f"- {conclusion(comparison, one)}" for one in comparison.differences),
        "\n".join(f"- Note: {note}." for note in comparison.notes),
        _method(comparison),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _arms_table(comparison: Comparison) -> str:
    head: tuple[str, ...] = ("arm", "accuracy, 95 % Wilson interval", "tokens a problem", "seconds a problem")
    head += ("accuracy per second, relative", "problems not shared")
    head += ("truncated", "strict accuracy", "right by rule")
    rows = [
        (
            arm.name,
            accuracy_text(arm.correct, comparison.n),
            f"{arm.tokens_per_problem:.1f}",
            f"{arm.seconds_per_problem:.3g}",
            _or_nothing(arm.relative_accuracy_per_second, "{:.3g}"),
            str(arm.unshared),
            percent(arm.truncated),
            strict_text(arm.strict_accuracy),
            rules_text(arm.rules),
        )
        for arm in comparison.arms
    ]
    return markdown_table(head, rows)


def _differences_table(comparison: Comparison) -> str:
    head: tuple[str, ...] = (
        f"against {comparison.arms[0].name}",
        "points, 95 % paired bootstrap interval",
        "helped",
        "harmed",
    )
    head += ("McNemar p", "Holm p", "points found at 80 % power")
    rows = [
        (
            one.name,
            _points(one),
            str(one.helped),
            str(one.harmed),
            _p(one.p),
            _p(one.p_holm),
            "" if one.detectable is None else f"{100 * one.detectable:.1f}",
        )
        for one in comparison.differences
    ]
    return markdown_table(head, rows)


def conclusion(comparison: Comparison, one: Difference) -> str:
    """What follows from one difference, in a sentence."""
    first = comparison.arms[0].name
    p = f"p {_equals(one.p)}" + (f" ({_p(one.p_holm)} after Holm)" if len(comparison.differences) > 1 else "")
    values = _points(one).replace(" [", " points [") if one.interval else f"{_points(one)} points"
    sentence = f"{one.name} against {first}: {values}, {one.helped} helped, {one.harmed} harmed, {p}: "
    if one.found:
        sentence += f"a difference was found, in favour of {one.name if one.difference > 0 else first}"
    elif one.detectable is None:
        sentence += f"no difference was found, and {comparison.n} problems are too few for any to be (80 % power)"
    else:
        sentence += f"no difference was found; with {comparison.n} problems one of {100 * one.detectable:.1f} points "
        sentence += "would have been (80 % power)"
    few = one.helped + one.harmed < FEW
    if one.interval is None:
        what = "Every problem" if one.helped + one.harmed else "No problem"
        return f"{sentence}. {what} changed, which leaves the bootstrap nothing to vary and no interval."
    return sentence + (". So few problems changed that the interval is rough: go by p." if few else ".")


def _method(comparison: Comparison) -> str:
    arms = len(comparison.differences)
    level = f"{ALPHA} / {arms}" if arms > 1 else str(ALPHA)
    return (
        f"Intervals of differences: percentiles of {comparison.resamples} resamples of the pairs, seed "
        f"{comparison.seed}. p: McNemar's exact test; Holm's correction is for {arms} "
        f"arm{'s' if arms > 1 else ''} held against the first. A difference counts as found where the corrected p is "
        f"at most {ALPHA}; the power is that of the exact test at {level}, with as many problems changed as were. "
        "Tokens are all that were generated. Seconds are as each run measured them, and tell something only where "
        "machine, load and batch size were the same."
    )


def _points(one: Difference) -> str:
    """A difference in percentage points: `+1.2 [-2.0, 4.5]`."""
    points = f"{100 * one.difference:+.1f}"
    return points if one.interval is None else f"{points} [{100 * one.interval[0]:.1f}, {100 * one.interval[1]:.1f}]"


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 0.0001 else "< 0.0001"


def _equals(p: float) -> str:
    return _p(p) if p < 0.0001 else f"= {_p(p)}"


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
