"""Students: subjects that are trained to compute like another one, and what they are trained by."""
