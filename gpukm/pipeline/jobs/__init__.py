"""Jobs: fits that a cluster runs on its own, and that a store keeps account of."""
