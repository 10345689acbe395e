"""Preparation of data sets for training: videos re-encoded into files or record shards.

`vswin_jax.prepare.job` runs it on the processes of one machine or as a Beam pipeline.
"""
