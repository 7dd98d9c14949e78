"""Audio encoders, how their features are read, and the projector."""
