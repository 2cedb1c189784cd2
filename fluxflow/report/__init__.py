"""One page about a run, or about several: `python -m fluxflow.report RUN…`."""
