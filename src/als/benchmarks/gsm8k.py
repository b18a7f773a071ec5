r"""GSM8K: grade-school word problems whose answer is a number. 7473 train, 1319 test.

A row of the test split (the answer shortened here):

    {"question": "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in
                  total does it take?",
     "answer": "It takes 2/2=<<2/2=1>>1 bolt of white fiber\nSo the total amount ... <<2+1=3>>3 bolts of
                fabric\n#### 3"}

It knows the columns and where the gold answer is in them; where rows come from is `base`'s business.
"""

import re

from als.benchmarks.base import BadRow, Benchmark, HubSource, Row, text_column

_MARK = "####"
_NUMBER = re.compile(r"[-+]?[0-9]*\.?[0-9]+")


def read_row(row: Row) -> tuple[str, str]:
    """The question, and what follows the last #### without thousands separators.

    An answer that is only a number, as in a file of one's own, is taken as it is.
    """
    answer = text_column(row, "answer")
    gold = answer.rsplit(_MARK, 1)[-1].replace(",", "").strip()
    if not gold or (_MARK not in answer and not _NUMBER.fullmatch(gold)):
        raise BadRow(f"has no {_MARK} with the final number after it in column 'answer'")
    return text_column(row, "question"), gold


BENCHMARK = Benchmark(
    name="gsm8k",
    family="number",
    read_row=read_row,
    ids=("gsm8k", "openai/gsm8k"),
    sources={split: HubSource("openai/gsm8k", "main", split) for split in ("train", "test")},
)
