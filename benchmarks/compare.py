"""The command `python -m benchmarks.compare A B`: two results folders side by side, see `report.compare`."""

import sys

from benchmarks.report.compare import main

if __name__ == "__main__":
    sys.exit(main())
