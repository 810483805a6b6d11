"""Results as something to show: lines, rows, CSV. Returned, never printed."""
