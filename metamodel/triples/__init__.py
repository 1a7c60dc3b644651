"""The record of a zoo: schema, store and splits."""
