"""Audio encoders, the readout of their features, and the projector."""
