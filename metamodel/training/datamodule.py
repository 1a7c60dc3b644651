"""Batches for the function reader: padded subjects, and their labels in a type of their own."""

from collections.abc import Sequence

import lightning.pytorch as lightning
import torch
from torch.utils.data import DataLoader

from metamodel.features.batch import pad_seen
from metamodel.features.examples import Example
from metamodel.losses.function import FunctionBatch, pad_truth


class FunctionData(lightning.LightningDataModule):
    """Training and validation subjects, held in memory."""

    def __init__(
        self,
        train: Sequence[Example],
        validation: Sequence[Example],
        *,
        slice_names: Sequence[str],
        algorithms: Sequence[str],
        held_out: Sequence[int],
        batch_size: int,
        seed: int,
    ):
        """Args:
        held_out: labels, by index, that no loss may see.
        """
        super().__init__()
        self.algorithms, self.held_out = tuple(algorithms), list(held_out)
        self.examples = {"train": list(train), "validation": list(validation)}
        self.slice_names, self.batch_size, self.seed = tuple(slice_names), batch_size, seed

    def train_dataloader(self) -> DataLoader:
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader("validation", shuffle=False)

    def _loader(self, split: str, *, shuffle: bool) -> DataLoader:
        return DataLoader(
            self.examples[split],  # pyright: ignore[reportArgumentType]
            batch_size=self.batch_size if shuffle else max(1, len(self.examples[split])),
            shuffle=shuffle,
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=self.collate,
        )

    def collate(self, examples: Sequence[Example]) -> FunctionBatch:
        seen, truth = [s for s, _ in examples], [t for _, t in examples]
        targets = pad_truth(truth, self.algorithms)
        targets.positive[..., self.held_out] = torch.nan
        targets.score[..., self.held_out] = torch.nan
        return FunctionBatch(seen=pad_seen(seen, self.slice_names), truth=targets)

    def transfer_batch_to_device(
        self, batch: FunctionBatch, device: torch.device, dataloader_idx: int
    ) -> FunctionBatch:
        return batch.to(device)
