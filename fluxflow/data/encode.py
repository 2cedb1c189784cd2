"""Write a cache of latents: `python -m fluxflow.data.encode vae=outputs/vae/<run>` (commands/encode.py)."""

from fluxflow.commands.encode import command

if __name__ == "__main__":
    command()
