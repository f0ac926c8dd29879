"""What searching costs: the searched convolution side by side with the plain one and with mmcv's operator.

    python -m benchmarks.speed            # about 10 minutes on 2 quiet cores
    python -m benchmarks.speed --quick    # about 1 minute: the layers and models with a target

Every row times one layer (forward and backward pass, gradients of everything) or one whole training step. All ways of
computing it take turns within each round, so that a busy machine slows them alike. What counts are the ratios to the
plain conv (the whole network without a search) of the same round: their median, and their quartiles as the spread.
Memory is the largest total that torch's allocator held beyond the arguments, without scratch memory of libraries.

Writes table.md, table.csv and speed.svg into results/speed.
"""

import sys

from benchmarks.speed.command import main

sys.exit(main())
