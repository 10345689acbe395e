"""Mesh, partition rules, sharding constraints and shard_map wrappers."""
