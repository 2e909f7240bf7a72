"""What all tables share: where they are registered, and types with one meaning."""

from sqlalchemy import DateTime, MetaData, Text

metadata = MetaData()
Time = DateTime(timezone=True)
# Compared and sorted byte by byte: identifiers, and whatever a page's cursor stands on.
TextC = Text(collation="C")
