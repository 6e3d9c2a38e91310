"""What tools/benchmark.py measures, and how; nothing of ppema imports it."""
