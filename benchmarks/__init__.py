"""Benchmarks: every figure in README and docs is produced by a command in this folder."""
