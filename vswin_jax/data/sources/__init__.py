"""Sources of examples: annotation files, class folders, TFDS data sets, record shards."""
