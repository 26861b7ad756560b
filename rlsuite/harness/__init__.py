"""What happens around an algorithm: run directory, loop, checkpoints, seeding, evaluation, logging."""
