"""`python -m lorafuse_bench ...`: the `lm_eval` command with our models and tasks registered explicitly.

For where the start-up file is not processed (PYTHONPATH alone, zip applications) or not wanted.
"""

from lorafuse_bench.plugin import register


def main() -> None:
    """Register, then hand the arguments to lm-eval's own command."""
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
