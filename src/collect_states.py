"""Run als.cli.collect_states; see --help."""

import sys

from als.cli.collect_states import main

if __name__ == "__main__":
    sys.exit(main())
