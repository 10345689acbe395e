"""Training steps of ours and of torchvision's swin3d_t, _s and _b: clips per second, memory, MFU.

    python benchmarks/train_step.py [--torch-python OTHER/bin/python] [--json out.json]
    python benchmarks/train_step.py --device gpu --json out.json

All implementations run the same step: cross-entropy, all gradients, one AdamW update, stochastic
depth 0.1. On a CPU the input is one clip of 16x224x224 for swin_tiny in float32, and the
measurements are interleaved. On a GPU clips of 32x224x224 are the input of every variant in
bfloat16, in batches that double until memory runs out. MFU is the model's own FLOPs
(vswin_jax/models/flops.py) over the chip's bfloat16 peak (vswin_jax/runtime/hardware.py). The file
of --json is written after every measurement; the same command resumes from it.

PyTorch may be installed in another interpreter (not every Python version has a CPU build), which
--torch-python names. Packages to install there: pip install torch==2.13.0; pip install --no-deps
torchvision==0.28.0; pip install pillow numpy.
"""

import sys

from throughput import main

DTYPES = {"cpu": ["float32"], "gpu": ["bfloat16"]}

if __name__ == "__main__":
    sys.exit(main(__doc__, training=True, dtypes=DTYPES))
