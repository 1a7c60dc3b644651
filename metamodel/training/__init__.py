"""From a zoo and a configuration to a checkpoint. Lightning is imported here and in objectives only."""
