"""`pocket-eye`: the vision encoder inside the package. `train.py` makes it, README.md is its card."""
