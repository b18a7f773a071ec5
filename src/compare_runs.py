"""Run als.cli.compare_runs; see --help."""

import sys

from als.cli.compare_runs import main

if __name__ == "__main__":
    sys.exit(main())
