"""Data sets made ready for training: videos encoded again, in files or in record shards.

`vswin_jax.prepare.job` is the whole job, on the processes of one machine or as a Beam pipeline.
"""
