"""Several runs -> how their arms differ, on the problems that all of them answered.

    comparison = compare([read_arm(first), read_arm(other)], resamples=10_000, seed=42)

The first arm is the one that the others are held against. This module knows run folders and their lines; the
statistics are those of `als.stats`. It knows no model. Words are in `comparison_report`, the figure in
`comparison_charts`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from als.environment import Entry, environments_of, read_entries, seconds_notes
from als.errors import UserError
from als.generation import TRANSFORMERS_MODES
from als.models import model_label
from als.records import ResultLine
from als.runlog import (
    CONFIG,
    LATER_FIELDS,
    SUMMARY,
    VECTOR_MADE_WITH,
    Json,
    accuracy_by_form,
    counts_by_rule,
    in_words,
    read_folder_lines,
    read_json,
    truncated_share,
)
from als.stats import (
    detectable_difference,
    holm,
    mcnemar_p,
    paired_difference_interval,
    wilson_interval,
)

SAME_FIELDS = (
    *("model", "revision", "dataset", "benchmark", "split", "prompt_idx", "max_new_tokens", "dtype", "engine", "judge"),
    *("chat_template_hash", "chat_template_kwargs", "system_prompt", "prefill"),
)
"""Fields of config.json in which arms have to agree, so that what differs is the mode and its options."""
MAY_BE_UNKNOWN = ("revision", "chat_template_hash")
"""Fields that a local model or a run of an older version does not have."""
WAYS_OUT = {"judge": " (--judge judges all runs again)"}
"""What else than --allow_mismatch lets runs be compared that differ in a field."""
ALPHA = 0.05
"""A difference counts as found where its corrected p-value is at most this."""
FEW = 10
"""Where fewer problems than this differ, bootstrap intervals are too narrow too often."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Arm:
    """One run, as its folder has it."""

    folder: Path
    """Absolute, links followed."""
    name: str
    """Mode and folder name, for instance "als prompt_0"."""
    config: Json
    lines: tuple[ResultLine, ...]
    """In the order of the data set."""
    finished: bool
    """Whether the run has its summary.json."""
    environments: Mapping[str, Entry] = field(default_factory=dict)
    """The entries of its environment.json by id; none where an earlier version wrote the folder."""
    changed: tuple[int, int] | None = None
    """Verdicts that judging again made right and made wrong; None where the verdicts are the run's own."""


@dataclass(frozen=True)
class ArmResult:
    """What one arm did on the shared problems."""

    name: str
    folder: str
    finished: bool
    unshared: int
    """Problems that this arm answered and that are left out, since another arm did not."""
    failures: int
    """Shared problems that could not be answered or judged; they count as wrong."""
    judge_errors: int
    """Shared answers whose comparison failed or met a limit; they count as wrong too."""
    changed: tuple[int, int] | None
    """Verdicts of the whole run that judging again made right and made wrong; None without --judge."""
    correct: int
    accuracy: float
    accuracy_interval: Interval
    """95 %, Wilson."""
    tokens_per_problem: float
    """Everything generated, discarded samples and texts included."""
    seconds_per_problem: float
    relative_accuracy_per_second: float | None
    """Accuracy over seconds a problem, divided by that of the first arm; None where that is 0 or took no time."""
    truncated: float
    """Share of answers that were cut off at max_new_tokens."""
    strict_accuracy: float | None
    """That of answers in the form that the prompt asks for; None where that is not known."""
    rules: Mapping[str, Mapping[str, int]]
    """Extraction rule -> n answers that it found, and how many of them are correct."""


@dataclass(frozen=True)
class Difference:
    """One arm held against the first, problem by problem."""

    name: str
    difference: float
    """This arm's accuracy less the first one's."""
    interval: Interval | None
    """95 %, paired bootstrap; None where every problem changed alike."""
    helped: int
    """Problems that the first arm got wrong and this one right."""
    harmed: int
    p: float
    """McNemar's exact test."""
    p_holm: float
    """The same, corrected for the number of arms held against the first."""
    detectable: float | None
    """The smallest difference that would have been found at 80 % power; None where none would."""
    changes: tuple[int, ...]
    """1 helped, -1 harmed, 0 neither, in the order of the data set."""

    @property
    def found(self) -> bool:
        """Whether the arms differ, as far as these problems tell."""
        return self.p_holm <= ALPHA


@dataclass(frozen=True)
class Comparison:
    """Arms on the same problems."""

    n: int
    """Problems that all arms answered."""
    setting: Json
    """What the arms have in common, of SAME_FIELDS."""
    arms: tuple[ArmResult, ...]
    differences: tuple[Difference, ...]
    """One for each arm but the first."""
    indices: tuple[int, ...]
    """The problems' indices in the first arm's data set."""
    notes: tuple[str, ...]
    """What a reader has to know besides."""
    resamples: int
    seed: int


# ------------------------------------------------------------------------------------------- reading runs


def read_arm(path: Path | str, *, judge: str | None = None) -> Arm:
    """Read a run.

    Args:
        path: its folder, or a file in it, such as logistics.pt.
        judge: judge its completions again by this judge; the folder stays as it is.

    Raises:
        UserError: not a run's folder, or one without results.
    """
    folder = Path(path).expanduser().resolve()
    folder = folder.parent if folder.is_file() else folder
    expected = f"give the folder of a run, the one that holds {CONFIG} and results.jsonl"
    if not (folder / CONFIG).is_file():
        raise UserError(f"{str(path)!r} is not a run: there is no {CONFIG}; {expected}")
    config = LATER_FIELDS | read_json(folder / CONFIG)
    lines = sorted(read_folder_lines(folder, traces=False), key=lambda line: line.index)
    if "mode" not in config or not lines:
        raise UserError(f"{str(path)!r} holds no results of a run; {expected}")
    name = f"{config['mode']} {folder.name}"
    arm = Arm(folder, name, config, tuple(lines), (folder / SUMMARY).is_file(), read_entries(folder))
    return arm if judge is None else _judged_by(judge, arm)


def _judged_by(judge: str, arm: Arm) -> Arm:
    from als.rejudge import rejudge

    lines = rejudge(arm.lines, arm.config, judge, folder=str(arm.folder))
    changes = [int(now.correct) - int(then.correct) for then, now in _pairs(arm.lines, lines)]
    changed = changes.count(1), changes.count(-1)
    return replace(arm, config={**arm.config, "judge": judge}, lines=tuple(lines), changed=changed)


def labels(arms: Sequence[Arm]) -> list[str]:
    """What each arm is called: mode and folder name, or as much of the path as tells equal ones apart."""
    names = [arm.name for arm in arms]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        equal = {name for name, count in Counter(names).items() if count > 1}
        names = [
            f"{arm.config['mode']} {'/'.join(arm.folder.parts[-depth:])}" if name in equal else name
            for arm, name in zip(arms, names, strict=True)
        ]
    return names


# ---------------------------------------------------------------------------------------------- comparing


def compare(
    arms: Sequence[Arm], *, resamples: int = 10_000, seed: int = 42, allow_mismatch: bool = False
) -> Comparison:
    """Compare the arms after the first with the first, on the problems that all of them answered.

    Args:
        arms: two or more.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        allow_mismatch: compare arms that differ in more than mode and options, and note in what.

    Raises:
        UserError: fewer than two arms, one given twice, arms that differ in data or setting, no shared problem.
    """
    _check_arms(arms)
    names = labels(arms)
    fields = _accepted(_differing_fields(arms, names), allow_mismatch)
    shared = _shared_lines(arms)
    golds = _accepted(_differing_golds(shared, names), allow_mismatch)
    return Comparison(
        n=len(shared[0]),
        setting={name: arms[0].config.get(name) for name in SAME_FIELDS if _agree(arms, name)},
        arms=_arm_results(arms, names, shared),
        differences=_differences(names, shared, resamples=resamples, seed=seed),
        indices=tuple(line.index for line in shared[0]),
        notes=(*fields, *golds, *_notes(arms, names, shared)),
        resamples=resamples,
        seed=seed,
    )


def _check_arms(arms: Sequence[Arm]) -> None:
    if len(arms) < 2:
        raise UserError(f"{len(arms)} run given: give two or more to compare, the first of them is the baseline")
    twice = [folder for folder, count in Counter(arm.folder for arm in arms).items() if count > 1]
    if twice:
        raise UserError(f"the run {str(twice[0])!r} is given twice: give another run, or leave it out")


def _accepted(differing: list[str], allow_mismatch: bool) -> list[str]:
    if differing and not allow_mismatch:
        raise UserError(
            f"the runs are not alike: {'; '.join(differing)}; give runs that differ in nothing but the mode and its "
            "options, or --allow_mismatch"
        )
    return differing


def _value(arm: Arm, field: str) -> Any:
    """A field of the configuration, as far as it matters: one model may lie under several paths."""
    value = arm.config.get(field)
    return model_label(value) if field == "model" and isinstance(value, str) else value


def _agree(arms: Sequence[Arm], field: str) -> bool:
    return all(_value(arm, field) == _value(arms[0], field) for arm in arms)


def _mismatch(first: Arm, other: Arm, field: str) -> bool:
    """Whether arms differ in a field that both know: a local copy of a model, for instance, has no revision."""
    unknown = field in MAY_BE_UNKNOWN and None in (_value(first, field), _value(other, field))
    return not unknown and not _agree((first, other), field)


def _both_values(first: Arm, other: Arm, field: str) -> str:
    """A field's two values, and what there is to choose."""
    words = f"{field} {first.config.get(field)!r} and {other.config.get(field)!r}{WAYS_OUT.get(field, '')}"
    modes = [arm.config["mode"] for arm in (first, other) if arm.config["mode"] in TRANSFORMERS_MODES]
    return f"{words} ({modes[0]} runs on --engine transformers only)" if modes and field == "engine" else words


def _differing_fields(arms: Sequence[Arm], names: Sequence[str]) -> list[str]:
    """A sentence for each arm that is not set up as the first."""
    sentences = []
    for arm, name in zip(arms[1:], names[1:], strict=True):
        fields = [_both_values(arms[0], arm, field) for field in SAME_FIELDS if _mismatch(arms[0], arm, field)]
        if fields:
            sentences.append(f"{names[0]} and {name} differ in {', '.join(fields)}")
    return sentences


def _shared_lines(arms: Sequence[Arm]) -> list[list[ResultLine]]:
    """For each arm its lines of the problems that all have, in the order of the first arm's data set."""
    tables = [_by_problem(arm.lines) for arm in arms]
    shared = [key for key in tables[0] if all(key in table for table in tables[1:])]
    if not shared:
        raise UserError("the runs share no problem: give runs on the same problems of a data set")
    return [[table[key] for key in shared] for table in tables]


def _by_problem(lines: Sequence[ResultLine]) -> dict[tuple[str, int], ResultLine]:
    """Lines by the problem's hash; a question that a data set asks twice counts twice."""
    seen: Counter[str] = Counter()
    table = {}
    for line in lines:
        table[line.problem_hash, seen[line.problem_hash]] = line
        seen[line.problem_hash] += 1
    return table


def _differing_golds(shared: Sequence[Sequence[ResultLine]], names: Sequence[str]) -> list[str]:
    """A sentence for each arm whose data set has other answers than the first one's."""
    counts = [sum(a.gold != b.gold for a, b in _pairs(shared[0], lines)) for lines in shared]
    return [
        f"{names[0]} and {name} differ in the gold answers of {count} shared problems"
        for name, count in zip(names, counts, strict=True)
        if count
    ]


def _pairs(first: Sequence[ResultLine], other: Sequence[ResultLine]) -> Iterator[tuple[ResultLine, ResultLine]]:
    return zip(first, other, strict=True)


def _notes(arms: Sequence[Arm], names: Sequence[str], shared: Sequence[Sequence[ResultLine]]) -> list[str]:
    notes = [f"{name} is not finished" for arm, name in zip(arms, names, strict=True) if not arm.finished]
    for arm, name in zip(arms, names, strict=True):
        if arm.changed is not None:
            right, wrong = arm.changed
            notes.append(
                f"{name} was judged again by {arm.config['judge']}: of {len(arm.lines)} verdicts {right + wrong} "
                f"changed, {right} to right and {wrong} to wrong"
            )
    unknown = [name for arm, name in zip(arms, names, strict=True) if arm.config.get("revision") is None]
    if len(unknown) < len(arms):
        notes += [f"the model revision of {name} is not known" for name in unknown]
    for arm, name in zip(arms, names, strict=True):
        if made_with := arm.config.get(VECTOR_MADE_WITH):
            notes.append(f"{name} adds a vector that was made with {in_words(made_with)}")
    for name, lines in zip(names, shared, strict=True):
        if failures := sum(line.failed for line in lines):
            notes.append(f"{failures} problems of {name} failed and count as wrong")
        if errors := _judge_errors(lines):
            notes.append(f"{errors} answers of {name} could not be compared (judge_error) and count as wrong")
        # A chat template may hold the date. What failed before it was asked has no prompt.
        if others := sum(bool(a.prompt and b.prompt) and a.prompt != b.prompt for a, b in _pairs(shared[0], lines)):
            notes.append(f"{name} was given {others} prompts of another wording than {names[0]}")
    return notes + seconds_notes(list(zip(names, map(_environments, arms, shared), strict=True)))


def _environments(arm: Arm, lines: Sequence[ResultLine]) -> list[Entry | None]:
    return environments_of((line.details.get("environment") for line in lines), arm.environments)


def _arm_results(
    arms: Sequence[Arm], names: Sequence[str], shared: Sequence[Sequence[ResultLine]]
) -> tuple[ArmResult, ...]:
    n = len(shared[0])
    efficiencies = [_accuracy_per_second(lines) for lines in shared]
    results = []
    for place, (arm, lines) in enumerate(zip(arms, shared, strict=True)):
        correct = sum(line.correct for line in lines)
        results.append(
            ArmResult(
                name=names[place],
                folder=str(arm.folder),
                finished=arm.finished,
                unshared=len(arm.lines) - n,
                failures=sum(line.failed for line in lines),
                judge_errors=_judge_errors(lines),
                changed=arm.changed,
                correct=correct,
                accuracy=correct / n,
                accuracy_interval=wilson_interval(correct, n),
                tokens_per_problem=sum(line.generated_tokens for line in lines) / n,
                seconds_per_problem=sum(line.seconds for line in lines) / n,
                relative_accuracy_per_second=_ratio(efficiencies[place], efficiencies[0]),
                truncated=truncated_share(lines),
                strict_accuracy=accuracy_by_form(
                    lines, prompt_idx=arm.config.get("prompt_idx"), judge=arm.config.get("judge", "als")
                ).get("strict_accuracy"),
                rules=counts_by_rule(lines),
            )
        )
    return tuple(results)


def _judge_errors(lines: Sequence[ResultLine]) -> int:
    return sum("judge_error" in line.details for line in lines)


def _accuracy_per_second(lines: Sequence[ResultLine]) -> float | None:
    """Right answers a second; None where they took no time."""
    return _ratio(sum(line.correct for line in lines), sum(line.seconds for line in lines))


def _ratio(value: float | None, unit: float | None) -> float | None:
    return value / unit if value is not None and unit else None


def _differences(
    names: Sequence[str], shared: Sequence[Sequence[ResultLine]], *, resamples: int, seed: int
) -> tuple[Difference, ...]:
    right = [[line.correct for line in lines] for lines in shared]
    changes = [tuple(int(b) - int(a) for a, b in zip(right[0], other, strict=True)) for other in right[1:]]
    ps = [mcnemar_p(change.count(1), change.count(-1)) for change in changes]
    corrected = holm(ps)
    n = len(right[0])
    return tuple(
        Difference(
            name=names[place + 1],
            difference=sum(change) / n,
            interval=paired_difference_interval(right[0], right[place + 1], resamples=resamples, seed=seed),
            helped=change.count(1),
            harmed=change.count(-1),
            p=ps[place],
            p_holm=corrected[place],
            # Holm's correction asks this of the smallest p-value, and less of the others.
            detectable=detectable_difference(n, n - change.count(0), alpha=ALPHA / len(changes)),
            changes=change,
        )
        for place, change in enumerate(changes)
    )
