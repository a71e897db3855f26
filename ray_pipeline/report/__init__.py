"""The report of a run: one self-contained HTML file. How to add a section: see `page`."""

from ray_pipeline.report.page import write_report

__all__ = ["write_report"]
