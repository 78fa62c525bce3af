"""Metrics, one family a file: pure functions first, then the `process_results` of the tasks that use them.

Every generation task also reports `score`, its representative metric, so that a group can average it.
All are on 0..1 except the loss of `nll`.
"""
