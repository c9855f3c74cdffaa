"""Checkers: pure functions `check_xxx(history, **options) -> Verdict`, one module or package each."""
