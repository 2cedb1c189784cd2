"""What the command lines run: composing and checking a config, training, sampling, encoding."""
