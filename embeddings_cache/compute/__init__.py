"""From prepared items to rows: the network, its device, and the readers beside it."""
