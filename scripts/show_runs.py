"""Print finished runs as one table.

python scripts/show_runs.py output/<model>-<dataset>/greedy_cot_eval/prompt_0 ...
"""

import argparse
import sys
from pathlib import Path

from als.errors import UserError
from als.runlog import CONFIG, SUMMARY, read_json
from als.stats import runs_table


def main() -> int:
    """Read the summaries, print the table."""
    parser = argparse.ArgumentParser(description="Print finished runs as one table.")
    parser.add_argument("run", nargs="+", type=Path, help="Folder of a run, the one that holds summary.json.")
    try:
        print(runs_table([row(folder) for folder in parser.parse_args().run]))
    except UserError as error:
        print(f"show_runs: {error}", file=sys.stderr)
        return 2
    return 0


def row(folder: Path) -> tuple[str, dict[str, object]]:
    """A run's name and summary."""
    folder = folder.expanduser()
    return f"{read_json(folder / CONFIG)['mode']} {folder.name}", read_json(folder / SUMMARY)


if __name__ == "__main__":
    sys.exit(main())
