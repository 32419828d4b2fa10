"""``python -m vlitqc``."""

from vlitqc.cli import main

if __name__ == "__main__":
    main()
