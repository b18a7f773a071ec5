r"""AIME 2024: thirty competition problems whose answer is a whole number from 0 to 999.

A row (problem and solution shortened here):

    {"ID": "2024-II-4",
     "Problem": "Let $x,y$ and $z$ be positive real numbers that satisfy ... Find $m+n$.",
     "Solution": "Denote $\\log_2(x) = a$ ... = \\frac{25}{8} \\implies \\boxed{033}$.",
     "Answer": 33}

The hub calls its only split "train"; nobody trains on thirty problems, so it is served as "test". It knows
the columns only.
"""

from als.benchmarks.base import BadRow, Benchmark, HubSource, Row, text_column


def read_row(row: Row) -> tuple[str, str]:
    """The problem, and the answer as a number without leading zeros."""
    answer = text_column(row, "Answer").strip()
    if not (answer.isascii() and answer.isdigit()):
        raise BadRow(f"has {answer!r} in column 'Answer' where a whole number is needed")
    return text_column(row, "Problem"), str(int(answer))


BENCHMARK = Benchmark(
    name="aime_2024",
    family="number",
    read_row=read_row,
    ids=("aime_2024", "aime2024", "Maxwell-Jia/AIME_2024"),
    sources={"test": HubSource("Maxwell-Jia/AIME_2024", None, "train")},
)
