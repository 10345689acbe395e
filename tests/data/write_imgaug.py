"""Writes imgaug.npz: a clip and the results of imgaug's RandAugment, which needs an old NumPy.

    python3.11 -m venv imgaug-env
    imgaug-env/bin/pip install imgaug==0.4.0 numpy==1.23.5 opencv-python-headless==4.8.1.78
    imgaug-env/bin/python tests/data/write_imgaug.py

`clip` is uint8 [3, 36, 48, 3]. Every other array is named after an operation and holds its results
at magnitude 7, uint8 [signs, 3, 36, 48, 3]: imgaug augmented the frames one by one with the same
random draw, as the recipe of Something-Something v2 does.
"""

from pathlib import Path

import imgaug.augmenters as iaa
import numpy as np

# In imgaug's order; main() leaves out cutout because its position is random.
NAMES = (
    *("identity", "autocontrast", "equalize", "invert", "rotate", "posterize", "solarize"),
    *("color", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y", "cutout", "blur", "smooth"),
)
DRAWS = 20


def make_clip() -> np.ndarray:
    """Draw blocks of colour whose range differs between frames and between channels."""
    rng = np.random.default_rng(0)
    lows, highs = rng.integers(0, 60, (3, 1, 1, 3)), rng.integers(150, 256, (3, 1, 1, 3))
    blocks = rng.integers(lows, highs + 1, (3, 9, 12, 3), dtype=np.int64).astype(np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)


def results(operation: iaa.Augmenter, clip: np.ndarray) -> np.ndarray:
    """Return the distinct results of random draws: one clip, or one for each sign."""
    found = {}
    for _ in range(DRAWS):
        drawn = operation.to_deterministic()
        augmented = np.stack([drawn.augment_image(frame) for frame in clip])
        found[augmented.tobytes()] = augmented
    return np.stack([found[key] for key in sorted(found)])


def main() -> None:
    """Write the file beside this script."""
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
