"""The durations of a config (training, warm-up, intervals), converted to optimizer steps."""

import math
from dataclasses import dataclass
from typing import Any

from vswin_jax.errors import rename_arguments
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

        def steps(section: str, name: str) -> float:
            text = getattr(getattr(config, section), name)
            with rename_arguments({"A duration": f"A duration such as config.{section}.{name}"}):
                return parse_duration(text, batch_size=batch_size, num_examples=num_examples)

        return cls(
            total_steps=math.ceil(steps("train", "duration")),
            steps_per_epoch=num_examples / batch_size,
            warmup_steps=steps("optim", "warmup"),
            log_every=steps("train", "log_every"),
            eval_every=steps("train", "eval_every"),
            checkpoint_every=steps("train", "checkpoint_every"),
            max_bad_steps=config.train.max_bad_steps,
        )

    def is_logged(self, step: int) -> bool:
        """Return True if the metrics of `step` are written: every `log_every`, and 1, 2, 5, 10, ...

        The latter show within the first minute that a run learns; they end where
        `log_every` begins. No clock takes part, so that a resumed run writes the same steps.
        """
        is_early = step < self.log_every and str(step).rstrip("0") in ("1", "2", "5")
        return is_early or self.is_due(step, self.log_every)

    def is_due(self, step: int, every: float) -> bool:
        """Return True if `step` reaches or passes a multiple of `every`, or is the last step."""
        if step == self.total_steps:
            return True
        return every > 0 and math.floor(step / every) > math.floor((step - 1) / every)
