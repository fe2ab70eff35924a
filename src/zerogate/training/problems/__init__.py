"""What can be learned besides text: one file per task, and `labelled/`-free readers of real files beside them."""
