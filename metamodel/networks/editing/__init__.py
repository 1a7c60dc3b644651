"""The editor: infers what is wanted of every example, and writes it with what the subject supplies."""
