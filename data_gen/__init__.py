"""The workshop: makes subjects, trains them and labels them."""
