"""Pictures of what the model is fed: training clips and augmentations."""
