"""Memory horizons over depth: schedules as data, what a query sees, and what a schedule costs.

Source of the idea: Depth-Structured Music Recurrence, arXiv 2602.19816.
"""

from ritornello.horizons.schedule import MAX_HORIZON_TOKENS, HorizonSchedule, Request, requested
from ritornello.horizons.visibility import Rule, visible

__all__ = ["MAX_HORIZON_TOKENS", "HorizonSchedule", "Request", "Rule", "requested", "visible"]
