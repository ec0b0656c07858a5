"""What is kept in files beside the database: snapshot, spool, secrets, packaged data."""
