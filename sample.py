"""Sample from a trained model: `python sample.py run=outputs/flow/<run> prompts='["a red dress"]' seeds=[0,1]`.

The run of a VAE gives images beside their reconstructions. `--help` lists every key.
"""

from fluxflow import signals

if __name__ == "__main__":  # before the imports, which take a second
    signals.handle(signals.leave)

from fluxflow.commands.sample import command

if __name__ == "__main__":
    command()
