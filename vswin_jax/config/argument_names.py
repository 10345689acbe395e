"""Settings of a config by the arguments that they become: errors then name what the user typed.

`errors.rename_arguments` takes these tables where a config is turned into arguments. A key is the
name of an argument or the phrase that stands for it in an error.
"""

from vswin_jax.config.base import base_config


def _section(name: str) -> dict[str, str]:
    return {key: f"config.{name}.{key}" for key in base_config()[name]}


CLIP_SPEC = _section("data") | {
    "num_clips": "config.eval.num_clips",
    "num_crops": "config.eval.num_crops",
    "eval_resize": "config.eval.resize",
    "rand_augment_n": "config.data.rand_augment.n",
    "rand_augment_m": "config.data.rand_augment.m",
}
MODEL = _section("model")
_SHAPES = {key: f"config.data.shapes.{key}" for key in base_config().data.shapes}
SHAPES = {
    **_SHAPES,
    **{f"but {key}": f"but {name}" for key, name in _SHAPES.items()},
    "name another directory": "name another --workdir or config.data.root",
}
SOURCE = {
    "kind": "config.data.format",
    "multi_label": "config.data.multi_label",
    "the data format": "config.data.format",
    "the label names": "config.data.label_names",
    "the number of classes": "config.model.num_classes",
    "the root": "config.data.root",
    "the root of its paths": "config.data.root, the parent of its paths",
}
EVALUATION = {
    "the batch size": "config.eval.batch_size",
    "The global batch size": "config.eval.batch_size",
}
# Of whatever else runs while a config is trained or evaluated.
RUN = {
    "attention": "config.model.attention",
    "tokenwise": "config.model.tokenwise",
    "class_balance": "config.data.class_balance",
    "aug_repeats": "config.data.aug_repeats",
    "the batch size": "config.train.batch_size",
    "The global batch size": "config.train.batch_size",
    "train.grad_accum_steps": "config.train.grad_accum_steps",
    "model.attn_drop_rate": "config.model.attn_drop_rate",
    "model.attention_layer": "config.model.attention_layer",
    "model.drop_rate": "config.model.drop_rate",
    "mesh.model": "config.mesh.model",
    "mesh.window": "config.mesh.window",
    "data.num_frames": "config.data.num_frames",
    "data.size": "config.data.size",
}
