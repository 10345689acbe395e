"""Training: the loop, its setup and steps, the optimizer, schedules, losses and metrics."""
