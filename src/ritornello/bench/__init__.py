"""Measuring what schedules cost in practice: speed and memory of training, and parity of devices."""
