"""What a meta-model is trained to do: one LightningModule a question."""
