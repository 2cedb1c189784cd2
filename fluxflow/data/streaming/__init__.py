"""The order of samples, batches, loader processes, and where a stream stands in a checkpoint."""
