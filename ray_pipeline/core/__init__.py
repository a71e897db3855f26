"""The lowest layer: errors, storage, rows and configuration. Imports no other package of ours."""
