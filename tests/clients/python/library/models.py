"""A Django application: the table all clients use, and one that its own migrations make."""

from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.db import models


class Item(models.Model):
    id = models.IntegerField(primary_key=True)
    name = models.TextField(null=True)
    price = models.DecimalField(null=True, max_digits=12, decimal_places=3)
    data = models.BinaryField(null=True)
    doc = models.JSONField(null=True)
    made = models.DateTimeField(null=True)
    tags = ArrayField(models.TextField(), null=True)
    numbers = ArrayField(models.IntegerField(), null=True)

    class Meta:
        managed = False
        db_table = "items"


class Book(models.Model):
    author = models.ForeignKey(User, on_delete=models.CASCADE)
    title = models.CharField(max_length=200)
    tags = ArrayField(models.TextField(), default=list)
    price = models.DecimalField(max_digits=12, decimal_places=2)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(price__gt=0), name="price_positive")]
        indexes = [models.Index(fields=["author", "-price"], name="book_by_price")]
