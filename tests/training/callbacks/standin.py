"""A run that takes milliseconds: one weight, images of one pixel."""

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Pixels(Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict:
        return {"image": torch.full((3, 1, 1), index, dtype=torch.uint8), "caption": f"grey {index}", "key": str(index)}


class Data(LightningDataModule):
    image_size = 1

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Pixels(), batch_size=4)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Pixels(), batch_size=16)


class Module(LightningModule):
    validation_metrics = {"val/loss": "lower"}  # noqa: RUF012 (a constant)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.frozen = nn.Dropout().eval()
        self.val_losses = [3.0, 1.0, 2.0, 4.0]

    def training_step(self, batch: dict, batch_idx: int) -> Tensor:
        loss = self.weight.square() * batch["image"].float().mean().clamp(max=1)
        self.log("loss", loss)
        return loss

    def flops(self, batch: dict) -> int:
        return 1000 * len(batch["image"])

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.log("val/loss", self.val_losses[min(self.global_step // 2 - 1, 3)], batch_size=16)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(*callbacks: Callback, steps: int = 6, val_every: int = 2, logger: object = False) -> Trainer:
    return Trainer(
        max_steps=steps,
        val_check_interval=val_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        logger=logger,
        log_every_n_steps=1,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
