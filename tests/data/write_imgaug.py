"""Writes imgaug.npz, what imgaug's RandAugment makes of a clip; imgaug needs an old NumPy.

    python3.11 -m venv imgaug-env
    imgaug-env/bin/pip install imgaug==0.4.0 numpy==1.23.5 opencv-python-headless==4.8.1.78
    imgaug-env/bin/python tests/data/write_imgaug.py

`clip` is uint8 [3, 36, 48, 3]. Every other array has the name of an operation, which it shows at
magnitude 7, and is uint8 [signs, 3, 36, 48, 3]: each frame went through imgaug by itself, with one
draw for all, which is how the recipe of Something-Something v2 applies it.
"""

from pathlib import Path

import imgaug.augmenters as iaa
import numpy as np

# In imgaug's own order; the cutout is left out because its place is random.
NAMES = (
    *("identity", "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize"),
    *("color", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y", "cutout", "blur", "smooth"),
)
DRAWS = 20


def make_clip() -> np.ndarray:
    """Blocks of colour whose range differs from frame to frame and from channel to channel."""
    rng = np.random.default_rng(0)
    lows, highs = rng.integers(0, 60, (3, 1, 1, 3)), rng.integers(150, 256, (3, 1, 1, 3))
    blocks = rng.integers(lows, highs + 1, (3, 9, 12, 3), dtype=np.int64).astype(np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)


def results(operation: iaa.Augmenter, clip: np.ndarray) -> np.ndarray:
    """All that different draws give: one clip, or one for each sign."""
    found = {}
    for _ in range(DRAWS):
        drawn = operation.to_deterministic()
        augmented = np.stack([drawn.augment_image(frame) for frame in clip])
        found[augmented.tobytes()] = augmented
    return np.stack([found[key] for key in sorted(found)])


def main() -> None:
    """Writes the file beside this script."""
    clip = make_clip()
    operations = list(iaa.RandAugment(n=4, m=7, seed=0)[1])
    arrays = {
        name: results(operation, clip)
        for name, operation in zip(NAMES, operations, strict=True)
        if name != "cutout"
    }
    np.savez_compressed(Path(__file__).with_name("imgaug.npz"), clip=clip, **arrays)


if __name__ == "__main__":
    main()
