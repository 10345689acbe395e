"""Forward passes of ours and of torchvision's swin3d_t, _s and _b: clips a second, memory, MFU.

    python benchmarks/inference.py [--torch-python OTHER/bin/python] [--json out.json]
    python benchmarks/inference.py --device gpu --json out.json

On a CPU one clip of 16x224x224 goes through swin_tiny, in float32 and in bfloat16, and the
contenders take turns. On a GPU clips of 32x224x224 go through every variant in bfloat16, in
batches that double until memory ends. The rest is as in train_step.py.
"""

import sys

from throughput import main

DTYPES = {"cpu": ["float32", "bfloat16"], "gpu": ["bfloat16"]}

if __name__ == "__main__":
    sys.exit(main(__doc__, training=False, dtypes=DTYPES))
