"""What everything stands on: errors, storage, rows, configuration. Imports nothing of ours."""
