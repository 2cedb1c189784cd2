import torch
from lightning import LightningModule, Trainer
from torch import nn

from fluxflow.training import EMA
from fluxflow.training.ema import averaged
from tests.training.callbacks import standin


class Exporting(standin.Module):
    @property
    def exported(self) -> nn.Module:
        return self


class Look(EMA):
    """Looks at the module inside and outside `averaged` during training."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained = pl_module.weight.item()
        self.expected = self.average["weight"].item()
        with averaged(trainer, pl_module):
            self.inside = pl_module.weight.item()
            self.modes_inside = [module.training for module in pl_module.modules()]
            self.gradients_inside = torch.is_grad_enabled()
        self.after = pl_module.weight.item()
        self.modes_after = [module.training for module in pl_module.modules()]


def test_averaged_weights_and_eval_mode_are_put_in_place_and_back() -> None:
    look = Look(decay=0.9)
    standin.trainer(look).fit(Exporting(), standin.Data())
    assert look.inside == look.expected != look.trained == look.after
    assert look.modes_inside == [False, False]
    assert look.modes_after == [True, False]  # the frozen part stays in eval mode
    assert not look.gradients_inside
