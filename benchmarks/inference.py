"""Forward passes of ours and of torchvision's swin3d_t, _s and _b: clips per second, memory, MFU.

    python benchmarks/inference.py [--torch-python OTHER/bin/python] [--json out.json]
    python benchmarks/inference.py --device gpu --json out.json

On a CPU the input is one clip of 16x224x224 for swin_tiny, in float32 and in bfloat16, and the
measurements are interleaved. On a GPU clips of 32x224x224 are the input of every variant in
bfloat16, in batches that double until memory runs out. Everything else is as in train_step.py.
"""

import sys

from throughput import main

DTYPES = {"cpu": ["float32", "bfloat16"], "gpu": ["bfloat16"]}

if __name__ == "__main__":
    sys.exit(main(__doc__, training=False, dtypes=DTYPES))
