"""SQLAlchemy's suite runs in a process of its own, by test_sqlalchemy_suite.py."""

collect_ignore = ["sqlalchemy"]
