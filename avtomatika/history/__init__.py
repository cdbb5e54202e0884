"""What happened, in SQL: the writer, the queries, the migrations. Off where HISTORY_DATABASE_URI is not set."""

from avtomatika.history.archive import Archive as Archive
from avtomatika.history.archive import open_archive as open_archive
