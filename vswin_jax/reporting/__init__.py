"""Metric writers, goodput, profiling, plots and contact sheets."""
