"""Private engines that train stacks of heads on arrays."""
