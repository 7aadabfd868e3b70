"""What the daemon does by itself when an alert fires; only if the configuration says so (docs/actions.md)."""
