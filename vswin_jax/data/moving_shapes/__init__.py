"""The moving_shapes data set: videos whose classes differ only in motion."""
