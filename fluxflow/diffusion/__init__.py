"""The diffusion process as pure functions: schedule, predictions, guidance, time sampling, and the sampler."""
