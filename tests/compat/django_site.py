"""Run by test_django.py: a Django site on the recipe's backend; what works must work, the rest must say why."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import sys
import uuid
from pathlib import Path

sys.path[:0] = sys.argv[1:3]

import django
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import IntegrityError, OperationalError, connection, models, transaction

import dqlite_py

node = dqlite_py.Node(Path(sys.argv[2]) / "node")
APPS = ["contenttypes", "auth", "sessions", "admin", "messages"]
settings.configure(
    DATABASES={"default": {"ENGINE": "dqlite_backend", "NAME": "app", "OPTIONS": {"node": lambda: node}}},
    INSTALLED_APPS=[f"django.contrib.{name}" for name in APPS],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import Group, User
from django.db.models.functions import Concat, Lower, Now, Reverse, Sqrt, TruncMonth

VALUES = {
    "price": decimal.Decimal("1.10"),
    "key": uuid.UUID(int=5),
    "document": {"a": [1]},
    "length": datetime.timedelta(hours=3),
    "blob": b"x",
    "flag": True,
    "day": datetime.date(2026, 1, 1),
    "time": datetime.time(3, 4),
}


class Everything(models.Model):
    price = models.DecimalField(max_digits=10, decimal_places=2)
    key = models.UUIDField()
    document = models.JSONField()
    length = models.DurationField()
    blob = models.BinaryField()
    flag = models.BooleanField()
    day = models.DateField()
    time = models.TimeField()

    class Meta:
        app_label = "site"


class Parent(models.Model):
    name = models.CharField(max_length=9, null=True)

    class Meta:
        app_label = "site"


class Child(models.Model):
    parent = models.ForeignKey(Parent, models.CASCADE)

    class Meta:
        app_label = "site"


def main() -> None:
    call_command("migrate", verbosity=0)
    queries()
    functions()
    transactions()
    types()
    schema()
    call_command("flush", interactive=False, verbosity=0)
    connection.close()


def queries() -> None:
    user = User.objects.create_user("Ann")
    assert abs((User.objects.get(pk=user.pk).date_joined - user.date_joined).total_seconds()) < 1
    assert User.objects.filter(username__icontains="aN", username__iexact="ANN").exists()
    assert User.objects.filter(date_joined__year=user.date_joined.year, date_joined__lte=Now()).exists()
    assert list(User.objects.annotate(low=Lower("username"), root=Sqrt("id")).values_list("low", "root")) == [
        ("ann", 1)
    ]
    User.objects.bulk_create([User(username=f"user {number}") for number in range(300)])
    assert User.objects.aggregate(models.Count("id"), models.Max("id")) == {"id__count": 301, "id__max": 301}
    assert User.objects.update(first_name=Concat("username", models.Value("!"))) == 301
    User.objects.update_or_create(username="Ann", defaults={"email": "a@b.c"})
    again = [User(username="Ann", email="d@e.f")]
    User.objects.bulk_create(
        again, update_conflicts=True, unique_fields=["username"], update_fields=["email"]
    )
    assert User.objects.get(username="Ann").email == "d@e.f"
    user.groups.add(Group.objects.create(name="g"))
    assert User.objects.filter(groups__name="g").count() == 1
    assert user.delete()[0] == 2


def functions() -> None:
    """Functions of Python are not the same on all nodes."""
    for query in (
        User.objects.filter(username__regex="^a"),
        User.objects.filter(date_joined__date=datetime.date(2026, 1, 1)),
        User.objects.filter(date_joined__month=1),
        User.objects.annotate(month=TruncMonth("date_joined")),
        User.objects.annotate(back=Reverse("username")),
        User.objects.order_by("?"),
    ):
        with pytest.raises(OperationalError, match="no such function"):
            list(query)


def transactions() -> None:
    with transaction.atomic():
        Group.objects.create(name="one")
        with pytest.raises(IntegrityError), transaction.atomic():
            Group.objects.create(name="one")
        Group.objects.create(name="two")
    with contextlib.suppress(KeyError), transaction.atomic():
        Group.objects.create(name="three")
        raise KeyError
    assert {*Group.objects.values_list("name", flat=True)} == {"g", "one", "two"}


def types() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Everything)
    Everything.objects.create(**VALUES)
    assert {name: getattr(Everything.objects.get(), name) for name in VALUES} == VALUES
    assert Everything.objects.filter(document__a__0=1).exists()


def schema() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Parent)
        editor.create_model(Child)
    parent = Parent.objects.create(name="p")
    extra = models.IntegerField(null=True)
    extra.set_attributes_from_name("extra")
    with connection.schema_editor() as editor:
        editor.add_field(Parent, extra)
    alter_name()
    Child.objects.create(parent=parent)
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        alter_name()
    assert (Parent.objects.count(), Child.objects.count()) == (1, 1)


def alter_name() -> None:
    old, new = Parent._meta.get_field("name"), models.CharField(max_length=9, default="z")
    new.set_attributes_from_name("name")
    new.model = Parent
    with connection.schema_editor() as editor:
        editor.alter_field(Parent, old, new)


with node:
    node.wait_ready()
    main()
print("all is as docs/django.md says")
