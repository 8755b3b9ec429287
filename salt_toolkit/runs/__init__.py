"""A run's directory, its environment and machine, and how it goes on."""
