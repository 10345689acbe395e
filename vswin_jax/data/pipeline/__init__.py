"""The input pipeline: sampler, decoding processes, bad-video handling and batches."""
