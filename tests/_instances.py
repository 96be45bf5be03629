"""The one list of estimators: common tests, the docs' tables and benchmarks read it.

A new estimator is one row of HEADS, and takes part in all of them. Nothing else lists
the estimators of the package.
"""
