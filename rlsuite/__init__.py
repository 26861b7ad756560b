"""Classic reinforcement-learning algorithms and benchmarks: one readable file a method, seeded and resumable."""

__version__ = "0.1.0"
