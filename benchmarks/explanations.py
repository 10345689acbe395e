"""Measures if Grad-CAM finds the moving object: the mass of the map inside the object's box.

    python benchmarks/explanations.py runs/quickstart --out benchmarks/results/explanations.json

RUN is the directory of a run on moving_shapes, such as that of experiments/quickstart.py. The clips
are the middle test views of --scenes scenes of the test split, eight videos each. Printed is the
mean share of the map's mass in the box, for each stage of the trained model and of one with random
weights, beside the box's share of the area, which is the share of a map that knows nothing.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import PyTree
from json_files import write_json

import vswin_jax
from vswin_jax.data.clips import transforms
from vswin_jax.data.clips.sampling import dense_test
from vswin_jax.data.moving_shapes.moving_scene import MOTIONS, object_boxes
from vswin_jax.data.moving_shapes.moving_shapes import OPTIONS_FILE, MovingShapesOptions, scene_at
from vswin_jax.errors import InputError
from vswin_jax.inference import TrainedModel
from vswin_jax.inference.explanations.clip_maps import mass_inside, scale_to_clip, token_extent
from vswin_jax.inference.explanations.grad_cam import PREDICTED, GradCam
from vswin_jax.models import init_params
from vswin_jax.runtime.script_parser import positive_int, print_error, script_parser, writable_file


def measure(run: Path, scenes: int) -> dict[str, object]:
    """Return the shares of all stages."""
    model = vswin_jax.load(run)
    options = read_options(run / "moving_shapes")
    clips, boxes = clips_and_boxes(model, run / "moving_shapes", options, scenes)
    params = {"trained": model.params, "random": init_params(model.model, jax.random.key(1))}
    stages = {
        f"stage {stage}": {
            name: round(mean_mass(model, values, stage, clips, boxes), 4)
            for name, values in params.items()
        }
        for stage in range(len(model.model.depths))
    }
    return {
        "clips": len(clips),
        "step": model.step,
        "jax": jax.__version__,
        "box_share_of_area": round(float(boxes.mean()), 4),
        "mass_in_box": stages,
    }


def read_options(data: Path) -> MovingShapesOptions:
    """Read the options of the data set, which determine its scenes."""
    path = data / OPTIONS_FILE
    if not path.exists():
        raise InputError(f"Expected a run on moving_shapes but there is no '{path}': give one.")
    return MovingShapesOptions(**json.loads(path.read_text()))


def clips_and_boxes(
    model: TrainedModel, data: Path, options: MovingShapesOptions, scenes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the clips uint8 `[B, T, size, size, 3]` and the boxes bool `[B, T, size, size]`."""
    spec = model.spec
    (frames,) = dense_test(options.num_frames, spec.num_frames, spec.frame_interval, num_clips=1)
    clips, boxes = [], []
    for index in range(min(scenes, options.test_scenes)):
        scene = scene_at(options, "test", index)
        for name, motion in MOTIONS.items():
            clips.append(model.read_clip(data / "test" / name / f"scene_{index:05d}.mp4")[0])
            box = object_boxes(scene, motion, options.num_frames)[frames]
            boxes.append(resize_boxes(box, spec.eval_short_side, spec.size))
    return np.stack(clips), np.stack(boxes)


def resize_boxes(boxes: np.ndarray, short_side: int, size: int) -> np.ndarray:
    """Resize boxes `[T, S, S]` and crop them as the frames are."""
    grey = 255 * np.repeat(boxes[..., None], 3, axis=-1).astype(np.uint8)
    resized = np.stack([transforms.resize_short_side(frame, short_side) for frame in grey])
    return transforms.eval_crops(resized, 1, size)[0][..., 0] > 127


def mean_mass(
    model: TrainedModel, params: PyTree, stage: int, clips: np.ndarray, boxes: np.ndarray
) -> float:
    """Return the mean share of the mass in the box; maps of zeros do not count."""
    explain = GradCam(model.model, stage)
    extent = token_extent(model.model.patch_size, stage)
    classes = np.full(8, PREDICTED)
    maps = [
        np.asarray(explain(params, clips[first : first + 8], classes).maps)
        for first in range(0, len(clips), 8)
    ]
    masses = [
        mass_inside(scale_to_clip(tokens, extent, box.shape, smooth=True), box)
        for tokens, box in zip(np.concatenate(maps), boxes, strict=True)
    ]
    return float(np.nanmean(masses))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the shares, and write them to a file if one is given."""
    parser = script_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the directory of a run")
    parser.add_argument("--scenes", type=positive_int, default=25, help="of the test split (25)")
    parser.add_argument("--out", type=writable_file, help="the JSON file for the result")
    options = parser.parse_args(arguments)
    try:
        result = measure(options.run, options.scenes)
    except InputError as error:
        return print_error(error)
    write_json(options.out, result)
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
