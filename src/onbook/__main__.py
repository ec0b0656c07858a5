"""``python -m onbook``."""

from onbook.cli.main import run

if __name__ == "__main__":
    run()
