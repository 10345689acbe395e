"""Training steps of ours and of torchvision's swin3d_t, _s and _b: clips a second, memory, MFU.

    python benchmarks/train_step.py [--torch-python OTHER/bin/python] [--json out.json]
    python benchmarks/train_step.py --device gpu --json out.json

The step is the same for all: cross-entropy, all gradients, one AdamW update, stochastic depth 0.1.
On a CPU one clip of 16x224x224 goes through swin_tiny in float32, and the contenders take turns.
On a GPU clips of 32x224x224 go through every variant in bfloat16, in batches that double until
memory ends. MFU is by the model's own FLOPs (vswin_jax/models/flops.py) and the
bfloat16 peak of the chip (vswin_jax/runtime/hardware.py). With --json rows are kept as they come,
and the same command goes on.

PyTorch may live in another interpreter (there is no CPU build for every Python): name it with
--torch-python. Install there: pip install torch==2.13.0; pip install --no-deps torchvision==0.28.0;
pip install pillow numpy.
"""

import sys

from throughput import main

DTYPES = {"cpu": ["float32"], "gpu": ["bfloat16"]}

if __name__ == "__main__":
    sys.exit(main(__doc__, training=True, dtypes=DTYPES))
