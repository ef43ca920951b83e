"""The project's own measurements; `python -m benchmarks --help`, `make bench`, docs/performance.md."""
