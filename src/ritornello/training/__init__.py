"""Training: ``recipes`` says what, ``loop`` does it, ``optimisers`` and ``journal`` are its tools."""
