"""What runs the workers: one file for each, with the interface of `runner.sharing.Engine`."""
