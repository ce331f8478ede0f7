"""Files that runs write, resume and mark. Knows no texts and no models."""
