"""All that a meta-model may see of a subject, and nothing else. Imports no labels and no labeller."""
