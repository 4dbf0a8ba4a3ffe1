"""Reports: the paper's table, figures and one self-contained page, from what the store holds."""

from reports.report import write_report

__all__ = ["write_report"]
