"""Networks that map one circuit onto another."""
