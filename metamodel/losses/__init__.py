"""Losses, as functions of tensors: usable on subjects and on meta-models, without lightning."""
