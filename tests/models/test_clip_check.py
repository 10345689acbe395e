"""Arrays that are no batch of normalised clips get a sentence with the way to make them one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vswin_jax.errors import InputError
from vswin_jax.models import create_model, init_params
from vswin_jax.models.clip_check import check_clips, check_shape

ORDERS = {
    (2, 3, 8, 24, 32): lambda clips: clips.transpose(0, 2, 3, 4, 1),
    (2, 8, 3, 24, 32): lambda clips: clips.transpose(0, 1, 3, 4, 2),
    (3, 8, 24, 32): lambda clip: clip.transpose(1, 2, 3, 0)[None],
    (8, 3, 24, 32): lambda clip: clip.transpose(0, 2, 3, 1)[None],
    (2, 1, 3, 8, 24, 32): lambda clips: clips[:, 0].transpose(0, 2, 3, 4, 1),
}


@pytest.mark.parametrize("shape", ORDERS)
def test_another_order_of_axes_is_named_with_the_call_that_changes_it(
    shape: tuple[int, ...],
) -> None:
    with pytest.raises(InputError) as caught:
        check_shape(shape, channels=3)
    remedy = str(caught.value).partition("give ")[2].rstrip(".")
    clips = np.zeros(shape)
    # The remedy is Python: it gives what the function expects, and the same as the case's own.
    converted = eval(remedy, {"clips": clips, "clip": clips})
    assert converted.shape == ORDERS[shape](clips).shape
    check_shape(converted.shape, channels=3)


def test_a_single_clip_and_other_arrays() -> None:
    with pytest.raises(InputError, match=r"one clip of shape \(8, 24, 32, 3\).*clip\[None\]"):
        check_shape((8, 24, 32, 3))
    for shape in ((24, 32, 3), (2, 0, 24, 32, 3), ()):
        with pytest.raises(InputError, match="but an array of shape"):
            check_shape(shape)
    with pytest.raises(InputError, match="with 4 channels: give RGB"):
        check_shape((2, 8, 24, 32, 4), channels=3)


def test_clips_of_every_size_pass() -> None:
    for shape in ((1, 1, 1, 1, 3), (2, 3, 5, 7, 3), (1, 3, 224, 224, 3), (0, 8, 24, 32, 3)):
        check_shape(shape, channels=3)
    for dtype in (np.float32, np.float64, jnp.bfloat16, np.float16):
        check_clips((1, 8, 24, 32, 3), dtype)


def test_the_model_refuses_pixels_and_single_clips() -> None:
    model = create_model("swin_tiny", 5, embed_dim=8, depths=(1,), num_heads=(1,))
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))

    def logits(*shape: int, dtype: str = "float32") -> jax.ShapeDtypeStruct:
        clips = jax.ShapeDtypeStruct(shape, dtype)
        return jax.eval_shape(lambda p, c: model.apply({"params": p}, c), params, clips)

    assert logits(1, 4, 16, 16, 3).shape == (1, 5)
    with pytest.raises(InputError, match="uint8 came: normalise RGB"):
        logits(1, 4, 16, 16, 3, dtype="uint8")
    with pytest.raises(InputError, match="add the axis of the batch"):
        logits(4, 16, 16, 3)
