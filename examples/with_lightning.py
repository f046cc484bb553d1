"""A compiled network in Lightning's hands: its loop, its optimiser and schedule, its checkpoints, its precision.

    pip install lightning scikit-learn
    python examples/with_lightning.py [epochs [processes]]

Nothing here is of tricnn but one line: the network is a ``tricnn.Module``, which Lightning takes for any other module.
On a GPU its kernels run, without one NumPy; the digits of scikit-learn are learned to 98 % in half a minute on a CPU.
Several processes train by Lightning's strategy "ddp", with gloo on CPUs and NCCL on GPUs.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import lightning
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import tricnn
from tricnn.training import load_dataset


class Digits(lightning.LightningModule):
    """LeNet, a loss with smoothed labels, SGD with momentum and a rate that falls as a cosine."""

    def __init__(self, rate: float = 0.05):
        super().__init__()
        self.save_hyperparameters()
        self.net = tricnn.Module(tricnn.graphs.lenet(num_classes=10), dtype="fp32")

    def training_step(self, batch: list[torch.Tensor], number: int) -> torch.Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels, label_smoothing=0.1)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], number: int) -> None:
        images, labels = batch
        right = (self.net(images).argmax(1) == labels).float().mean()
        self.log("accuracy", right, prog_bar=True, sync_dist=True)  # of all processes

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        sgd = torch.optim.SGD(self.parameters(), self.hparams["rate"], momentum=0.9, nesterov=True)
        return [sgd], [torch.optim.lr_scheduler.CosineAnnealingLR(sgd, self.trainer.max_epochs or 1)]


def loaders() -> tuple[DataLoader, DataLoader]:
    """The handwritten digits of scikit-learn as LeNet wants them, in batches of 32: to train on, to test with."""
    data = replace(load_dataset("digits"), image_size=(28, 28))
    parts = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    train, test = (TensorDataset(torch.from_numpy(data.prepare(x)), torch.from_numpy(y)) for x, y in parts)
    return DataLoader(train, 32, shuffle=True), DataLoader(test, 256)


def main(epochs: int = 5, processes: int = 1, folder: str | Path | None = None) -> float:
    """The accuracy on the test images, after training in ``folder``."""
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        max_epochs=epochs, default_root_dir=folder or tempfile.mkdtemp(), gradient_clip_val=1.0,
        accumulate_grad_batches=2, enable_progress_bar=False, logger=False,
        devices=processes, strategy="ddp" if processes > 1 else "auto",
    )  # fmt: skip
    train, test = loaders()
    digits = Digits()
    trainer.fit(digits, train, test)
    best = trainer.checkpoint_callback.best_model_path
    again = Digits.load_from_checkpoint(best)  # weights by their names, as of any module
    (found,) = trainer.validate(again, test, verbose=False)
    trainer.print(f"test accuracy {found['accuracy']:.1%}, checkpoint {best}")  # the first process alone
    return found["accuracy"]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
