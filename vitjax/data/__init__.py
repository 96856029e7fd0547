"""Pictures from files to batches, on the host and without jax."""
