"""The exit statuses of the command line."""

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
