"""`python -m lorafuse_bench.cli ...`: the `lorafuse` command as a module, which `accelerate launch -m` asks for."""

from lorafuse_bench.cli import main

if __name__ == "__main__":
    main()
