from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """With an index that cannot be made in a transaction."""

    atomic = False
    dependencies = [("library", "0001_initial")]

    operations = [
        migrations.AlterField("Book", "title", models.CharField(max_length=200)),
        migrations.AddField("Book", "price", models.DecimalField(max_digits=12, decimal_places=2, default=1)),
        migrations.AddConstraint(
            "Book", models.CheckConstraint(condition=models.Q(("price__gt", 0)), name="price_positive")
        ),
        AddIndexConcurrently("Book", models.Index(fields=["author", "-price"], name="book_by_price")),
    ]
