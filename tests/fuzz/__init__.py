"""Targets for a fuzzer guided by coverage: one file a kind of reader, run by run.py.

Each has `seeds()`, inputs that reach deep, and `run(data)`, which reads what the bytes describe and
raises whatever the reader must not raise. tests/test_fuzz_targets.py runs all without a fuzzer.
"""
