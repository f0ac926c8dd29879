"""The command `python -m tests.faults.fuzz`."""

import sys

from tests.faults.fuzz.fuzzer import main

if __name__ == "__main__":
    sys.exit(main())
