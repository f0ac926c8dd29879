"""Records to tables, figures and one page: results/<task>-<preset>/, results/index.html, results/latex/.

python -m benchmarks.report [--results DIR]
"""

import sys

from benchmarks.report.build import main

sys.exit(main())
