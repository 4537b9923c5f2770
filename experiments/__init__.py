"""One script a job: flags and a call. Each is run as `python -m experiments.NAME`; nothing imports an experiment."""
