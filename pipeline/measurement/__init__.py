"""Parts of the measurement: loaded checkpoints and their cache, sampling of hidden states, loss, memory, provenance."""
