"""The durations of a config (training, warm-up, intervals), converted to optimizer steps."""

import math
from dataclasses import dataclass
from typing import Any

from vswin_jax.training.schedules import parse_duration


@dataclass(frozen=True)
class TrainingDurations:
    """Durations in optimizer steps; all but `total_steps` may be fractional."""

    total_steps: int
    steps_per_epoch: float
    warmup_steps: float
    log_every: float
    eval_every: float
    checkpoint_every: float
    max_bad_steps: int

    @classmethod
    def from_config(cls, config: Any, num_examples: int) -> "TrainingDurations":
        """Convert the durations of `config` for a training set of `num_examples`.

        Raises:
          InputError: a duration cannot be parsed.
        """
        batch_size = config.train.batch_size

        def steps(text: str) -> float:
            return parse_duration(text, batch_size=batch_size, num_examples=num_examples)

        return cls(
            total_steps=math.ceil(steps(config.train.duration)),
            steps_per_epoch=num_examples / batch_size,
            warmup_steps=steps(config.optim.warmup),
            log_every=steps(config.train.log_every),
            eval_every=steps(config.train.eval_every),
            checkpoint_every=steps(config.train.checkpoint_every),
            max_bad_steps=config.train.max_bad_steps,
        )

    def is_due(self, step: int, every: float) -> bool:
        """Return True if `step` reaches or passes a multiple of `every`, or is the last step."""
        if step == self.total_steps:
            return True
        return every > 0 and math.floor(step / every) > math.floor((step - 1) / every)
