"""Everything for the published package: its checkpoints in and out, its `FluxPipeline`, its layout of the flow."""
