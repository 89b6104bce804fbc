import django.contrib.postgres.fields
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [migrations.swappable_dependency(settings.AUTH_USER_MODEL)]

    operations = [
        migrations.CreateModel(
            "Item",
            [("id", models.IntegerField(primary_key=True))],
            options={"db_table": "items", "managed": False},
        ),
        migrations.CreateModel(
            "Book",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("author", models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=django.db.models.deletion.CASCADE)),
                ("title", models.CharField(max_length=100)),
                ("tags", django.contrib.postgres.fields.ArrayField(models.TextField(), default=list)),
            ],
        ),
    ]
