"""Networks that read, edit and match: plain torch modules, without lightning and without files."""
