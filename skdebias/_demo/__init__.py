"""The main job of ``skdebias demo``: embed, fit, search, report."""

from skdebias._demo._run import run_demo
from skdebias._demo._settings import DemoInputError, DemoSettings

__all__ = ["DemoInputError", "DemoSettings", "run_demo"]
