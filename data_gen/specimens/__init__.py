"""Subjects into which single functions are planted by hand, beside decoys: the proof of function labels."""
