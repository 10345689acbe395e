"""Compiled-program analysis: HLO parsing, cost accounting, topologies and dry runs."""
