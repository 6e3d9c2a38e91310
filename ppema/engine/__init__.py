"""The training loop, its hooks, evaluation, and the state that resuming needs."""
